//! A whole pipeline for tests: a throwaway server, the real binary as a child process, SQLite replicas that are read as
//! an application would read them, and D1 databases on a real workerd. Everything ends with the [`Pipeline`], and a
//! failed test shows the engine's log.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use walcast::Lsn;
use walcast::app::demo::{Cluster, Workerd};
use walcast::sink::d1::budget::{Budget, Limit};
use walcast::sink::d1::rest::{RestOptions, RestTransport};
use walcast::sink::d1::transport::{Statement, Transport};

/// How long anything that is awaited may take, so that a test fails instead of hanging.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How often what has no event is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A server, a configuration and at most one engine.
pub struct Pipeline {
    pub cluster: Cluster,
    directory: TempDir,
    sinks: Vec<String>,
    /// What the engines that start from now on find in their environment, which has nothing else.
    pub environment: Vec<(String, String)>,
    engine: Option<Child>,
    session: RefCell<Option<Session>>,
    /// Where the D1 databases are, and the name and the file of each by its sink's name.
    pub workerd: Option<Workerd>,
    databases: BTreeMap<String, (String, PathBuf)>,
}

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

impl Pipeline {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A pipeline with the sinks `eu` and `na`, its engine running and caught up with `sql`.
    pub fn started(sql: &str, schema: &Value) -> Pipeline {
        let mut pipeline = Pipeline::builder().build(sql, schema);
        pipeline.start();
        pipeline.catch_up();
        // The replicas have their first position before the stream starts.
        pipeline.await_log("streaming");
        pipeline.sinks.clone().iter().for_each(|sink| pipeline.filled(sink));
        pipeline
    }

    // The engine.

    /// Starts `walcast run`.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts `walcast run` with further arguments.
    pub fn start_with(&mut self, arguments: &[&str]) {
        assert!(self.engine.is_none(), "the engine runs already");
        self.engine = Some(self.spawn(arguments));
    }

    /// A further engine on the same configuration, whose owner looks after it.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_walcast"))
            .arg("run")
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the engine starts")
    }

    /// Runs another command of walcast on the same configuration.
    pub fn walcast(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_walcast"))
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut engine = self.engine.take().expect("an engine runs");
        engine.kill().unwrap();
        engine.wait().unwrap();
    }

    /// SIGTERM, and the exit code once it has ended.
    pub fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.exit_code()
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let engine = self.engine.as_ref().expect("an engine runs");
        kill_process(Pid::from_child(engine), Signal::TERM).unwrap();
    }

    /// Waits until the engine ends by itself; its exit code, or `None` where a signal ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        let mut engine = self.engine.take().expect("an engine runs");
        let code = self.wait_for_exit(&mut engine);
        self.forget_session_if_closed();
        code
    }

    /// Waits until a process of [`spawn`](Self::spawn) ends.
    pub fn wait_for_exit(&self, engine: &mut Child) -> Option<i32> {
        self.eventually("the engine to end", || engine.try_wait().unwrap()).code()
    }

    /// Whether the engine still runs.
    pub fn is_running(&mut self) -> bool {
        self.engine.as_mut().is_some_and(|engine| engine.try_wait().unwrap().is_none())
    }

    /// Runs the engine until every sink is at the server's position, and asserts that it ends well.
    pub fn run_until_caught_up(&mut self) {
        self.start_with(&["--until-caught-up"]);
        assert_eq!(self.exit_code(), Some(0), "{}", self.log());
    }

    /// The engine's process id.
    pub fn engine_pid(&self) -> u32 {
        self.engine.as_ref().expect("an engine runs").id()
    }

    /// What all engines of this pipeline have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Forgets what was logged until now. Only while no engine runs.
    pub fn clear_log(&self) {
        drop(File::create(self.log_path()).unwrap());
    }

    /// Waits until the log contains the text.
    pub fn await_log(&self, text: &str) {
        self.eventually(&format!("the log to say {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Asserts that the log contains every one of these texts.
    pub fn assert_log(&self, texts: &[&str]) {
        let log = self.log();
        for text in texts {
            assert!(log.contains(text), "the log lacks {text:?}");
        }
    }

    /// Asserts that the log contains one of these texts.
    pub fn assert_log_any(&self, texts: &[&str]) {
        let log = self.log();
        assert!(texts.iter().any(|text| log.contains(text)), "the log has none of {texts:?}");
    }

    fn log_path(&self) -> PathBuf {
        self.path("engine.log")
    }

    /// A file in the pipeline's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces `schema.json`.
    pub fn write_schema(&self, schema: &Value) {
        fs::write(self.path("schema.json"), schema.to_string()).unwrap();
    }

    /// Replaces a text in `walcast.toml`.
    pub fn edit_config(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("walcast.toml")).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(self.path("walcast.toml"), config.replace(from, to)).unwrap();
    }

    /// Adds a SQLite sink to `walcast.toml`.
    pub fn add_sink(&mut self, name: &str) {
        let mut config = fs::read_to_string(self.path("walcast.toml")).unwrap();
        write!(config, "[[sink]]\nname = \"{name}\"\ntype = \"sqlite\"\npath = \"{name}.db\"\n").unwrap();
        fs::write(self.path("walcast.toml"), config).unwrap();
        self.sinks.push(name.to_owned());
    }

    // The source.

    /// A new SQL session.
    pub fn session(&self) -> Session {
        Session::connect(&self.cluster.url()).expect("a session")
    }

    /// Runs statements and returns the last one's rows, columns joined by `|`, NULL as `NULL`.
    pub fn exec(&self, sql: &str) -> Vec<String> {
        self.try_exec(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The same, for statements that may fail.
    pub fn try_exec(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        self.forget_session_if_closed();
        let mut session = self.session.borrow_mut();
        if session.is_none() {
            *session = Some(Session::connect(&self.cluster.url())?);
        }
        session.as_ref().unwrap().exec(sql)
    }

    /// The single value that a query returns.
    pub fn ask(&self, sql: &str) -> String {
        let rows = self.exec(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// Restarts the server in an orderly way.
    pub fn restart_server(&mut self) {
        self.cluster.restart().expect("the server restarts");
        self.session.replace(None);
    }

    /// Ends the server as a crash would and starts it again.
    pub fn crash_server(&mut self) {
        self.cluster.crash().expect("the server starts again");
        self.session.replace(None);
    }

    fn forget_session_if_closed(&self) {
        let mut session = self.session.borrow_mut();
        if session.as_ref().is_some_and(|session| session.client.is_closed()) {
            *session = None;
        }
    }

    /// The server's WAL position.
    pub fn wal_lsn(&self) -> Lsn {
        parse_lsn(&self.ask("SELECT pg_current_wal_lsn()"))
    }

    /// What the slot has been told, if the slot exists and is valid.
    pub fn confirmed_flush_lsn(&self) -> Option<Lsn> {
        let rows =
            self.exec("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'walcast'");
        rows.first().filter(|lsn| *lsn != "NULL").map(|lsn| parse_lsn(lsn))
    }

    // The replicas.

    /// The replica of that sink. A D1 database can be read while workerd is killed.
    pub fn replica(&self, sink: &str) -> Replica {
        let file = self.databases.get(sink).map(|(_, file)| file.clone());
        Replica { path: file.unwrap_or_else(|| self.path(&format!("{sink}.db"))) }
    }

    /// A way to a D1 database while workerd runs.
    pub fn d1(&self, name: &str) -> RestTransport {
        let options = RestOptions {
            base_url: self.workerd.as_ref().expect("a D1 sink").base_url(),
            account: Workerd::ACCOUNT.to_owned(),
            database: self.databases[name].0.clone(),
            // With numbers and a limit of its own.
            token: format!("{}-of-the-test", Workerd::TOKEN).into(),
            timeout: LIMIT,
        };
        let limit = Limit { requests: 1_000_000, ..Limit::default() };
        RestTransport::new(options, std::sync::Arc::new(Budget::new(limit))).unwrap()
    }

    /// Rows of a D1 database while workerd runs, each column a text.
    pub fn d1_rows(&self, name: &str, sql: &str) -> Vec<String> {
        let statement = Statement { sql: sql.into(), params: Vec::new() };
        let answers =
            self.d1(name).execute(&[statement]).unwrap_or_else(|failure| panic!("{sql}: {failure:?}"));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows = answers[0].rows.iter();
        rows.map(|row| row.values().map(text).collect::<Vec<_>>().join("|")).collect()
    }

    /// The limits of D1 that a request broke. Two requests at once are none: the test itself may look while the engine
    /// writes, and a killed engine's last request may still be running when the next one begins.
    pub fn broken_limits(&self) -> Vec<String> {
        let stats = self.workerd.as_ref().expect("a D1 sink").stats().unwrap();
        let broken = stats["violated"].as_object().expect("the rules that were broken").iter();
        broken.filter(|(rule, _)| *rule != "concurrent").map(|(rule, how)| format!("{rule}: {how}")).collect()
    }

    /// Orders a fault of a D1 database; see [`Workerd::order`].
    pub fn order(&self, name: &str, mut fault: Value) {
        fault["db"] = json!(self.databases[name].0);
        self.workerd.as_ref().expect("a D1 sink").order(&fault).unwrap();
    }

    /// All replicas.
    pub fn replicas(&self) -> Vec<Replica> {
        self.sinks.iter().map(|sink| self.replica(sink)).collect()
    }

    /// Waits until every replica is at the server's present position.
    pub fn catch_up(&self) {
        let lsn = self.wal_lsn();
        for sink in &self.sinks {
            self.catch_up_to(sink, lsn);
        }
    }

    /// Waits until one replica is at the server's present position.
    pub fn catch_up_one(&self, sink: &str) {
        self.catch_up_to(sink, self.wal_lsn());
    }

    fn catch_up_to(&self, sink: &str, lsn: Lsn) {
        if self.databases.contains_key(sink) {
            let sql = "SELECT lsn FROM _walcast_checkpoint";
            let statement = Statement { sql: sql.into(), params: Vec::new() };
            let mut database = self.d1(sink);
            self.eventually(&format!("{sink} to reach {lsn}"), || {
                let answers = database.execute(std::slice::from_ref(&statement)).ok()?;
                let found = answers[0].rows.first()?.get("lsn")?.as_str()?;
                (parse_lsn(found) >= lsn).then_some(())
            });
            return;
        }
        let replica = self.replica(sink);
        self.eventually(&format!("{sink} to reach {lsn}"), || {
            replica.checkpoint().filter(|checkpoint| checkpoint.lsn >= lsn)
        });
    }

    /// Waits until every table of the replica is live: filled, and the stream past where its rows were read.
    pub fn filled(&self, sink: &str) {
        let replica = self.replica(sink);
        self.eventually(&format!("{sink} to be filled"), || {
            let checkpoint = replica.checkpoint()?.lsn;
            let fills = replica.fills();
            let is_live = |fill: &Value| {
                let all = |key: &str, is: fn(&Value) -> bool| fill[key].as_array().unwrap().iter().all(is);
                all("ranges", |range| range["is_done"] == true)
                    && fill["ranges"] != json!([])
                    && fill["owed"] == json!([])
                    && parse_lsn(fill["seen_lsn"].as_str().unwrap()) <= checkpoint
            };
            (!fills.is_empty() && fills.values().all(is_live)).then_some(())
        });
    }

    /// Asserts that a query has the same rows at the source and, in the replicas' SQL, in every replica.
    pub fn assert_equal(&self, source_sql: &str, replica_sql: &str) {
        let expected = self.exec(source_sql);
        for replica in self.replicas() {
            let found = replica.rows(replica_sql);
            if found != expected {
                let missing = expected.iter().filter(|row| !found.contains(row)).count();
                panic!(
                    "{} differs: {} rows, not {}; {missing} of the source's are missing\n{:?}\n{:?}",
                    replica.path.display(),
                    found.len(),
                    expected.len(),
                    &found[..found.len().min(20)],
                    &expected[..expected.len().min(20)],
                );
            }
        }
    }

    /// Looks until `look` finds something, for at most [`LIMIT`].
    pub fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited too long for {what}");
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the engine's log ---\n{}\n---",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

/// An SQL session of its own, for a thread of its own.
pub struct Session {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    pub fn connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Session { client, runtime })
    }

    /// Runs statements and returns the last one's rows.
    pub fn exec(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let mut rows = Vec::new();
        for message in &messages {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    let values: Vec<&str> =
                        (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
                    rows.push(values.join("|"));
                }
                _ => {}
            }
        }
        Ok(rows)
    }
}

/// A SQLite replica as its readers see it.
pub struct Replica {
    pub path: PathBuf,
}

/// A replica's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub lsn: Lsn,
    pub transactions: i64,
    pub epoch: i64,
}

impl Replica {
    /// A read-only connection.
    pub fn open(&self) -> Connection {
        self.try_open().unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    fn try_open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(LIMIT)?;
        Ok(connection)
    }

    /// A query's rows, columns joined by `|`, NULL as `NULL`, a blob as `x'…'`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.open(), sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.path.display()))
    }

    /// The single value that a query returns.
    pub fn ask(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// `target|operation|key|reason` of every dead letter.
    /// What the replica says of its fills, by target.
    pub fn fills(&self) -> BTreeMap<String, Value> {
        if self.checkpoint().is_none() {
            return BTreeMap::new();
        }
        let Ok(rows) = rows(&self.open(), "SELECT target, fill FROM _walcast_fills") else {
            return BTreeMap::new();
        };
        rows.iter()
            .map(|row| {
                let (target, fill) = row.split_once('|').unwrap();
                (target.to_owned(), serde_json::from_str(fill).unwrap())
            })
            .collect()
    }

    pub fn dead_letters(&self) -> Vec<String> {
        self.rows("SELECT target, operation, key, reason FROM _walcast_dead_letters ORDER BY id")
    }

    /// The position, if the replica has one yet.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        if !Path::exists(&self.path) {
            return None;
        }
        let connection = self.try_open().ok()?;
        let read =
            connection.query_row("SELECT lsn, transactions, epoch FROM _walcast_checkpoint", [], |row| {
                Ok(Checkpoint {
                    lsn: parse_lsn(&row.get::<_, String>(0)?),
                    transactions: row.get(1)?,
                    epoch: row.get(2)?,
                })
            });
        read.ok()
    }
}

/// A query's rows on a connection.
pub fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut found = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let values =
            (0..columns).map(|column| row.get_ref(column).map(text)).collect::<Result<Vec<_>, _>>()?;
        found.push(values.join("|"));
    }
    Ok(found)
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(integer) => integer.to_string(),
        ValueRef::Real(real) => format!("{real:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(blob) => format!("x'{}'", hex(blob)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn parse_lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|_| panic!("{text} is no LSN"))
}
