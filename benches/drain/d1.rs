//! D1 databases on a local workerd, and what walcast is compared with there: a client that posts bodies it has ready,
//! which is the ceiling, and one that sends a statement for each row, as small systems do.

use std::time::Instant;

use serde_json::{Value, json};
use walcast::app::demo::Workerd;
use walcast::error::{Error, Result};

use crate::measure::Sample;
use crate::server::Server;
use crate::workload::Backlog;

/// Rows, and bytes of JSON, in one parameter of a ready body; and parameters in one body.
const PARAM_ROWS: usize = 5_000;
const PARAM_BYTES: usize = 1_000_000;
const BODY_PARAMS: usize = 4;
/// Statements in a request of the client that sends one for each row.
pub const ROW_STATEMENTS: usize = 998;
/// Rows that one `cursor` of the source brings.
const PAGE_ROWS: usize = 50_000;

/// A workerd with empty databases.
pub struct Databases {
    workerd: Workerd,
    ids: Vec<String>,
}

impl Databases {
    pub fn start(count: usize) -> Result<Self> {
        let workerd = Workerd::start()?;
        let ids =
            (0..count).map(|index| workerd.create_database(&format!("r{index}"))).collect::<Result<_>>()?;
        Ok(Databases { workerd, ids })
    }

    /// The `[[sink]]` sections that name them.
    pub fn rest_sinks(&self) -> String {
        let sink = |(index, id): (usize, &String)| {
            format!(
                "[[sink]]\nname = \"r{index}\"\ntype = \"d1\"\naccount_id = \"{}\"\ndatabase = \"{id}\"\n\
                 api_token = \"{}\"\nbase_url = \"{}\"\n",
                Workerd::ACCOUNT,
                Workerd::TOKEN,
                self.workerd.base_url()
            )
        };
        self.ids.iter().enumerate().map(sink).collect()
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
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        send(&agent, &self.url(id), body)
    }

    fn url(&self, id: &str) -> String {
        format!("{}/accounts/{}/d1/database/{id}/query", self.workerd.base_url(), Workerd::ACCOUNT)
    }

    /// Creates the backlog's table in every database and posts the bodies to each, one request in flight for each.
    pub fn drain(&self, ready: &Ready) -> Result<Sample> {
        for id in &self.ids {
            self.post(id, &body(&[(ready.table.clone(), vec![])]))?;
        }
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.ids.iter().map(|id| scope.spawn(move || self.post_all(id, ready))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("the client does not panic"))
        })?;
        Ok(Sample { seconds: started.elapsed().as_secs_f64(), ..Sample::default() })
    }

    fn post_all(&self, id: &str, ready: &Ready) -> Result<()> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = self.url(id);
        ready.bodies.iter().try_for_each(|body| send(&agent, &url, body).map(drop))
    }
}

fn send(agent: &ureq::Agent, url: &str, body: &str) -> Result<Value> {
    let failed = |error| Error::halt("posting to workerd").because(error);
    let request = agent.post(url).header("authorization", format!("Bearer {}", Workerd::TOKEN));
    let mut answer = request.send(body).map_err(failed)?;
    let text = answer.body_mut().read_to_string().map_err(failed)?;
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
