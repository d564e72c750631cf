//! The regions: SQLite files in the engine's directory, or D1 databases on a local workerd. How they are named, read, taken
//! away and brought back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use walcast::app::demo::Workerd;

use crate::engine::sqlite_sinks;

/// Where the regions are.
pub enum Regions {
    /// Files in this directory.
    Files(PathBuf),
    /// Databases of this workerd, with the id of each by its sink's name.
    Databases(Box<Workerd>, BTreeMap<String, String>),
}

impl Regions {
    /// Files in a directory.
    pub fn files(directory: &Path) -> Self {
        Regions::Files(directory.to_owned())
    }

    /// Databases of a workerd, empty.
    pub fn databases(names: &[&str]) -> Self {
        let workerd = Workerd::start().expect("workerd");
        let created = |name: &&str| ((*name).to_owned(), workerd.create_database(name).expect("a database"));
        let ids = names.iter().map(created).collect();
        Regions::Databases(Box::new(workerd), ids)
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Regions::Files(_) => "SQLite files",
            Regions::Databases(..) => "D1 databases on one local workerd, which has a single thread",
        }
    }

    /// The sections of `walcast.toml` that make them sinks. Each database has a token, and so a limit, of its own.
    pub fn sections(&self, names: &[&str]) -> String {
        let Regions::Databases(workerd, _) = self else { return sqlite_sinks(names) };
        let section = |name: &&str| {
            format!(
                "[[sink]]\nname = \"{name}\"\ntype = \"d1\"\ndsn = \"d1://{}/{name}\"\napi_token = \"{}-{name}\"\n\
                 base_url = \"{}\"\n",
                Workerd::ACCOUNT,
                Workerd::TOKEN,
                workerd.base_url()
            )
        };
        let sections: String = names.iter().map(section).collect();
        format!("[d1]\nrequests_per_5_minutes = 1000000\n{sections}")
    }

    /// A way to read a region, as an application would.
    pub fn reader(&self, name: &str) -> Reader {
        match self {
            Regions::Files(directory) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let path = directory.join(format!("{name}.db"));
                Reader::File(Connection::open_with_flags(path, flags).expect("the replica"))
            }
            Regions::Databases(workerd, ids) => {
                let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60)));
                // workerd ends idle connections, and says so only to whoever asks next.
                let config = config.max_idle_connections(0);
                let (base, account, id) = (workerd.base_url(), Workerd::ACCOUNT, &ids[name]);
                let url = format!("{base}/accounts/{account}/d1/database/{id}/raw");
                Reader::Database { agent: config.proxy(None).build().into(), url }
            }
        }
    }

    /// Deletes what a region holds, while it is written to. A database is there again at once, empty.
    pub fn delete(&self, name: &str) {
        match self {
            Regions::Files(directory) => {
                for suffix in ["", "-wal", "-shm"] {
                    std::fs::remove_file(directory.join(format!("{name}.db{suffix}")))
                        .expect("the file is there");
                }
            }
            Regions::Databases(workerd, _) => workerd.recreate(name).expect("another database"),
        }
    }

    /// Takes a region down until what is returned is dropped: nothing can be written to the file, or the database
    /// answers with an error.
    pub fn take_down(&self, name: &str) -> Down<'_> {
        match self {
            Regions::Files(directory) => {
                let file = Connection::open(directory.join(format!("{name}.db"))).expect("the replica");
                file.busy_timeout(Duration::from_secs(60)).expect("a timeout");
                file.execute_batch("BEGIN IMMEDIATE").expect("its lock");
                Down::Locked(file)
            }
            Regions::Databases(workerd, _) => {
                let fault = json!({"kind": "internal-error", "db": name, "times": "until cleared"});
                workerd.order(&fault).expect("a fault");
                Down::Faulty(workerd)
            }
        }
    }
}

/// A region that is down.
pub enum Down<'a> {
    Locked(Connection),
    Faulty(&'a Workerd),
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        match self {
            Down::Locked(file) => file.execute_batch("ROLLBACK").expect("the lock is let go"),
            Down::Faulty(workerd) => workerd.clear_faults().expect("workerd answers"),
        }
    }
}

/// A way to read a region.
pub enum Reader {
    File(Connection),
    Database { agent: ureq::Agent, url: String },
}

impl Reader {
    /// The one text that a query returns.
    pub fn text(&self, sql: &str) -> String {
        match self {
            Reader::File(file) => {
                let mut statement = file.prepare_cached(sql).expect("a statement");
                statement.query_row([], |row| row.get(0)).expect("a row")
            }
            Reader::Database { agent, url } => {
                let token = format!("Bearer {}", Workerd::READER_TOKEN);
                let request = agent.post(url).header("authorization", token);
                let mut answer = request.send_json(json!({ "sql": sql })).expect("an answer");
                let body: Value = answer.body_mut().read_json().expect("JSON");
                let cell = body["result"][0]["results"]["rows"][0][0].as_str();
                cell.unwrap_or_else(|| panic!("no row: {body}")).to_owned()
            }
        }
    }
}
