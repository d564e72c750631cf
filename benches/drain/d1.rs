//! D1 databases on a local workerd, and what walcast is compared with there: a client that posts bodies it has ready,
//! which is the ceiling, and one that sends a statement for each row, as small systems do.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::hmac;
use serde_json::{Value, json};
use walcast::app::demo::Workerd;
use walcast::error::{Error, Result};
use walcast::sink::d1::budget::{Budget, Limit};
use walcast::sink::d1::http;
use walcast::sink::d1::rest::{RestOptions, RestTransport};
use walcast::sink::d1::transport::Transport;
use walcast::sink::d1::worker::{WorkerOptions, WorkerTransport};

use crate::measure::Sample;
use crate::server::Server;
use crate::workload::Backlog;

/// Rows, and bytes of JSON, in one parameter of a ready body; and parameters in one body.
const PARAM_ROWS: usize = 5_000;
const PARAM_BYTES: usize = 1_000_000;
const BODY_PARAMS: usize = 4;
/// Statements in a request of the client that sends one for each row.
pub const ROW_STATEMENTS: usize = 998;
/// How often a client with ready bodies sends one again whose connection ended.
const RETRIES_MAX: u32 = 3;
/// Rows that one `cursor` of the source brings.
const PAGE_ROWS: usize = 50_000;

/// How a database is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Cloudflare's REST API.
    Rest,
    /// The companion Worker.
    Worker,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Rest => "REST",
            Way::Worker => "Worker",
        }
    }
}

/// A workerd with empty databases.
pub struct Databases {
    workerd: Workerd,
    way: Way,
    ids: Vec<String>,
}

impl Databases {
    pub fn start(way: Way, count: usize) -> Result<Self> {
        let workerd = Workerd::start()?;
        let names = Workerd::BINDINGS.iter().take(count);
        let ids = names.map(|(_, name)| workerd.create_database(name)).collect::<Result<_>>()?;
        Ok(Databases { workerd, way, ids })
    }

    /// The databases: the id of each, and its binding in the Worker.
    fn all(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.ids.iter().map(String::as_str).zip(Workerd::BINDINGS.iter().map(|(binding, _)| *binding))
    }

    /// The `[[sink]]` sections that name them.
    pub fn sinks(&self) -> String {
        let address = |id: &str, binding: &str| match self.way {
            Way::Rest => format!(
                "type = \"d1\"\naccount_id = \"{}\"\ndatabase = \"{id}\"\napi_token = \"{}\"\nbase_url = \"{}\"\n",
                Workerd::ACCOUNT,
                Workerd::TOKEN,
                self.workerd.base_url()
            ),
            Way::Worker => format!(
                "type = \"d1-worker\"\nurl = \"{}\"\nbinding = \"{binding}\"\nkey = \"{}\"\n",
                self.workerd.worker_url(),
                Workerd::KEY
            ),
        };
        let sink =
            |(index, (id, binding))| format!("[[sink]]\nname = \"r{index}\"\n{}", address(id, binding));
        self.all().enumerate().map(sink).collect()
    }

    /// The sinks' ways to them.
    pub fn transports(&self) -> Result<Vec<Box<dyn Transport>>> {
        let transport = |(id, binding): (&str, &str)| -> Result<Box<dyn Transport>> {
            Ok(match self.way {
                Way::Rest => {
                    let options = RestOptions {
                        base_url: self.workerd.base_url(),
                        account: Workerd::ACCOUNT.to_owned(),
                        database: id.to_owned(),
                        token: Workerd::TOKEN.to_owned().into(),
                        timeout: http::TIMEOUT,
                    };
                    let limit = Limit { requests: 100_000, ..Limit::default() };
                    Box::new(RestTransport::new(options, Arc::new(Budget::new(limit)))?)
                }
                Way::Worker => Box::new(WorkerTransport::new(WorkerOptions {
                    url: self.workerd.worker_url(),
                    binding: binding.to_owned(),
                    key: Workerd::KEY.to_owned().into(),
                    timeout: http::TIMEOUT,
                })?),
            })
        };
        self.all().map(transport).collect()
    }

    /// Whether every database has everything, and was asked for nothing beyond D1's limits.
    pub fn verify(&self, backlog: &Backlog) -> Result<()> {
        let (table, expected) = backlog.expected;
        for id in &self.ids {
            let answer = self.post(id, &body(&[(format!("SELECT count(*) AS n FROM {table}"), vec![])]))?;
            if answer["result"][0]["results"][0]["n"] != expected {
                return Err(Error::bug(format!("a database has {answer}, not {expected} rows")));
            }
        }
        match self.workerd.violations()? {
            0 => Ok(()),
            _ => Err(Error::bug(format!("a request was beyond D1's limits: {}", self.workerd.stats()?))),
        }
    }

    /// Lets a request have more statements than D1 documents.
    pub fn allow_many_statements(&self) -> Result<()> {
        self.workerd.allow_statements(ROW_STATEMENTS as u32)
    }

    fn post(&self, id: &str, body: &str) -> Result<Value> {
        read(
            agent()
                .post(self.url(id))
                .header("authorization", format!("Bearer {}", Workerd::TOKEN))
                .send(body),
        )
    }

    fn url(&self, id: &str) -> String {
        format!("{}/accounts/{}/d1/database/{id}/query", self.workerd.base_url(), Workerd::ACCOUNT)
    }

    /// Creates the backlog's table in every database and posts the bodies to each, one request in flight for each.
    pub fn drain(&self, ready: &Ready) -> Result<Sample> {
        for id in &self.ids {
            self.post(id, &body(&[(ready.table.clone(), vec![])]))?;
        }
        let bodies: Vec<Vec<u8>> = match self.way {
            Way::Rest => ready.bodies.iter().map(|body| body.clone().into_bytes()).collect(),
            Way::Worker => ready.bodies.iter().map(|body| gzip(body.as_bytes())).collect::<Result<_>>()?,
        };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let post_all = |(id, binding)| {
                let bodies = &bodies;
                scope.spawn(move || self.post_all(id, binding, bodies))
            };
            let threads: Vec<_> = self.all().map(post_all).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("the client does not panic"))
        })?;
        Ok(Sample { seconds: started.elapsed().as_secs_f64(), ..Sample::default() })
    }

    fn post_all(&self, id: &str, binding: &str, bodies: &[Vec<u8>]) -> Result<()> {
        let (agent, url) = (agent(), self.url(id));
        let path = format!("/v1/databases/{binding}/query");
        let post = |body: &[u8]| {
            let request = match self.way {
                Way::Rest => agent.post(&url).header("authorization", format!("Bearer {}", Workerd::TOKEN)),
                Way::Worker => {
                    let (time, signature) = sign(&path, body);
                    agent
                        .post(format!("{}{path}", self.workerd.worker_url()))
                        .header("content-type", "application/gzip")
                        .header("walcast-timestamp", time)
                        .header("walcast-signature", signature)
                }
            };
            request.send(body)
        };
        bodies.iter().try_for_each(|body| {
            // A workerd that was busy for seconds with other databases takes a connection for an idle one and ends it.
            // Rows that are written twice end the same.
            let mut answer = post(body);
            for _ in 0..RETRIES_MAX {
                if matches!(answer, Err(ureq::Error::Io(_))) {
                    answer = post(body);
                }
            }
            read(answer).map(drop)
        })
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// The time and the signature that the Worker wants for a body.
fn sign(path: &str, body: &[u8]) -> (String, String) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, Workerd::KEY.as_bytes()));
    context.update(format!("v1\n{time}\nPOST\n{path}\n").as_bytes());
    context.update(body);
    (time, format!("v1={}", hex::encode(context.sign())))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    compressed.map_err(|error| Error::halt("compressing a body").because(error))
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let failed = |error| Error::halt("posting to workerd").because(error);
    let text = answer.map_err(failed)?.body_mut().read_to_string().map_err(failed)?;
    let answer: Value =
        serde_json::from_str(&text).map_err(|error| Error::halt("an answer of workerd").because(error))?;
    match answer["success"] == true {
        true => Ok(answer),
        false => Err(Error::halt(format!("workerd refuses a request: {}", answer["errors"]))),
    }
}

fn body(statements: &[(String, Vec<String>)]) -> String {
    let batch: Vec<Value> =
        statements.iter().map(|(sql, params)| json!({ "sql": sql, "params": params })).collect();
    json!({ "batch": batch }).to_string()
}

/// Everything that a client posts, ready before the clock starts.
pub struct Ready {
    table: String,
    bodies: Vec<String>,
}

/// The rows of a table as the source has them, and how they are written.
struct Rows {
    columns: Vec<String>,
    table: &'static str,
    create: String,
    rows: Vec<Value>,
}

impl Rows {
    fn read(server: &Server, backlog: &Backlog) -> Result<Rows> {
        let (table, _) = backlog.expected;
        let declared = backlog.schema[table]["columns"].as_object().cloned().unwrap_or_default();
        let columns: Vec<String> = declared.keys().cloned().collect();
        let key = backlog.schema[table]["primaryKey"].as_str().unwrap_or_default();
        let definitions: Vec<String> = declared
            .iter()
            .map(|(name, target)| match target.as_str() {
                Some("INTEGER" | "BOOLEAN") => format!("{name} INTEGER"),
                Some("REAL") => format!("{name} REAL"),
                _ => format!("{name} TEXT"),
            })
            .collect();
        let create = format!("CREATE TABLE {table} ({}, PRIMARY KEY ({key})) STRICT", definitions.join(", "));
        // As the mapping spells them, near enough for the clock: unix seconds for a time that is an INTEGER.
        let values = declared.iter().map(|(name, target)| match (name.as_str(), target.as_str()) {
            ("changed", _) => format!("extract(epoch FROM {name})::bigint"),
            (_, Some("INTEGER" | "REAL")) => name.clone(),
            (_, Some("BOOLEAN")) => format!("{name}::int"),
            _ => format!("{name}::text"),
        });
        let values: Vec<String> = values.collect();
        let (mut rows, mut last) = (Vec::new(), String::from("0"));
        loop {
            let query = format!(
                "SELECT json_agg(row) FROM (SELECT json_build_array({}) AS row FROM {table} WHERE {key} > {last} \
                 ORDER BY {key} LIMIT {PAGE_ROWS}) AS page",
                values.join(", ")
            );
            let Some(page) = server.text(&query)? else { break };
            let page: Vec<Value> =
                serde_json::from_str(&page).map_err(|error| Error::bug("reading rows").because(error))?;
            last = page.last().map(|row| row[0].to_string()).unwrap_or_default();
            rows.extend(page);
        }
        Ok(Rows { columns, table, create, rows })
    }

    fn upsert(&self, values: &str) -> String {
        let set: Vec<String> =
            self.columns[1..].iter().map(|name| format!("{name} = excluded.{name}")).collect();
        format!(
            "INSERT INTO {} ({}) {values} ON CONFLICT ({}) DO UPDATE SET {}",
            self.table,
            self.columns.join(", "),
            self.columns[0],
            set.join(", ")
        )
    }
}

impl Ready {
    /// Whole row sets as one parameter each.
    pub fn row_sets(server: &Server, backlog: &Backlog) -> Result<Ready> {
        let rows = Rows::read(server, backlog)?;
        let values: Vec<String> = (0..rows.columns.len()).map(|index| format!("value->>{index}")).collect();
        let sql = rows.upsert(&format!("SELECT {} FROM json_each(?1) WHERE true", values.join(", ")));
        let (mut params, mut param, mut count) = (Vec::new(), String::from("["), 0);
        for row in &rows.rows {
            let text = row.to_string();
            if count == PARAM_ROWS || param.len() + text.len() > PARAM_BYTES {
                params.push(std::mem::replace(&mut param, String::from("[")) + "]");
                count = 0;
            }
            if count > 0 {
                param.push(',');
            }
            param.push_str(&text);
            count += 1;
        }
        params.push(param + "]");
        let body_of = |params: &[String]| {
            body(&params.iter().map(|param| (sql.clone(), vec![param.clone()])).collect::<Vec<_>>())
        };
        Ok(Ready { table: rows.create, bodies: params.chunks(BODY_PARAMS).map(body_of).collect() })
    }

    /// One statement for each row.
    pub fn row_statements(server: &Server, backlog: &Backlog) -> Result<Ready> {
        let rows = Rows::read(server, backlog)?;
        let places: Vec<String> = (1..=rows.columns.len()).map(|index| format!("?{index}")).collect();
        let sql = rows.upsert(&format!("VALUES ({})", places.join(", ")));
        let params = |row: &Value| -> Vec<String> {
            let values = row.as_array().into_iter().flatten();
            values.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect()
        };
        let body_of =
            |rows: &[Value]| body(&rows.iter().map(|row| (sql.clone(), params(row))).collect::<Vec<_>>());
        Ok(Ready { table: rows.create, bodies: rows.rows.chunks(ROW_STATEMENTS).map(body_of).collect() })
    }
}
