//! What a pipeline is made of: server settings, sinks and sections of the configuration. It starts the server and workerd
//! and writes the files; the engine is started by the pipeline.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use tempfile::TempDir;
use walcast::app::demo::{Cluster, Workerd};

use super::Pipeline;

/// What to set up. Made by [`Pipeline::builder`].
#[derive(Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    sinks: Vec<(String, String)>,
    databases: Vec<(String, String, bool)>,
    source: String,
    sections: String,
    has_no_replicas: bool,
}

impl Builder {
    /// Sets a server setting.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Adds a SQLite sink with further lines of its section. Without any there are `eu` and `na`.
    pub fn sink(mut self, name: &str, lines: &str) -> Self {
        self.sinks.push((name.into(), lines.into()));
        self
    }

    /// Adds a D1 sink with further lines of its section. Alone, or beside SQLite sinks.
    pub fn d1(mut self, name: &str, lines: &str) -> Self {
        self.databases.push((name.into(), lines.into(), false));
        self
    }

    /// The same through the companion Worker, which has a database for each of six such sinks.
    pub fn d1_worker(mut self, name: &str, lines: &str) -> Self {
        self.databases.push((name.into(), lines.into(), true));
        self
    }

    /// Adds lines to `[source]`.
    pub fn source(mut self, lines: &str) -> Self {
        self.source.push_str(lines);
        self
    }

    /// Adds sections to the configuration, such as `[shutdown]`.
    pub fn sections(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self
    }

    /// Adds sections that have the sinks, and no SQLite sink.
    pub fn only(self, text: &str) -> Self {
        Builder { has_no_replicas: true, ..self.sections(text) }
    }

    /// Starts the server, runs `sql` and writes the configuration. The engine is not started.
    pub fn build(mut self, sql: &str, schema: &Value) -> Pipeline {
        if self.sinks.is_empty() && self.databases.is_empty() && !self.has_no_replicas {
            self = self.sink("eu", "").sink("na", "");
        }
        let mut cluster = Cluster::builder();
        for (name, value) in &self.settings {
            cluster = cluster.setting(name, value);
        }
        let cluster = cluster.start().expect("a server");
        let directory = TempDir::new().expect("a directory");
        let mut config = format!(
            "[source]\nurl = \"{}\"\nstatus_interval = \"50ms\"\nidle_checkpoint_interval = \"100ms\"\n{}\n\
             [retry]\nmax = \"300ms\"\n{}\n",
            cluster.url(),
            self.source,
            self.sections
        );
        for (name, lines) in &self.sinks {
            write!(config, "[[sink]]\nname = \"{name}\"\ntype = \"sqlite\"\npath = \"{name}.db\"\n{lines}\n")
                .unwrap();
        }
        let mut sinks: Vec<String> = self.sinks.into_iter().map(|(name, _)| name).collect();
        let workerd = (!self.databases.is_empty()).then(|| Workerd::start().expect("a workerd"));
        let mut databases = BTreeMap::new();
        let mut bindings = Workerd::BINDINGS.into_iter();
        for ((name, lines, is_worker), workerd) in self.databases.into_iter().zip(std::iter::repeat(&workerd))
        {
            let workerd = workerd.as_ref().unwrap();
            let (database, reach) = match is_worker {
                true => {
                    let (binding, database) = bindings.next().expect("a binding is left");
                    let (url, key) = (workerd.worker_url(), Workerd::KEY);
                    let reach =
                        format!("d1-worker\"\nurl = \"{url}\"\nbinding = \"{binding}\"\nkey = \"{key}\"\n");
                    (database.to_owned(), reach)
                }
                false => {
                    let (url, account, token) = (workerd.base_url(), Workerd::ACCOUNT, Workerd::TOKEN);
                    let dsn = format!("d1://{account}/{name}");
                    let reach =
                        format!("d1\"\ndsn = \"{dsn}\"\napi_token = \"{token}\"\nbase_url = \"{url}\"\n");
                    (name.clone(), reach)
                }
            };
            // Behind a binding it is made when it is first used.
            let _ = workerd.create_database(&database);
            let file = workerd.stats().unwrap()["known"][&database]["file"].as_str().unwrap().to_owned();
            databases.insert(name.clone(), (database, workerd.data_directory().join(file)));
            write!(config, "[[sink]]\nname = \"{name}\"\ntype = \"{reach}{lines}\n").unwrap();
            sinks.push(name);
        }
        fs::write(directory.path().join("walcast.toml"), config).unwrap();
        let pipeline = Pipeline {
            cluster,
            directory,
            sinks,
            environment: Vec::new(),
            engine: None,
            session: RefCell::new(None),
            workerd,
            databases,
        };
        pipeline.write_schema(schema);
        pipeline.exec(sql);
        pipeline
    }
}
