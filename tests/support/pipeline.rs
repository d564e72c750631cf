//! A whole pipeline for tests: a throwaway server, the real binary as a child process, SQLite replicas that are read as
//! an application would read them, and D1 databases on a real workerd. Everything ends with the [`Pipeline`], and a
//! failed test shows the engine's log.

#![allow(dead_code, unused_imports, reason = "every test file uses its own part")]

#[path = "pipeline/builder.rs"]
mod builder;
#[path = "pipeline/replica.rs"]
mod replica;
#[path = "pipeline/session.rs"]
mod session;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use walcast::Lsn;
use walcast::app::demo::{Cluster, Workerd};
use walcast::sink::d1::budget::{Budget, Limit};
use walcast::sink::d1::rest::{RestOptions, RestTransport};
use walcast::sink::d1::transport::{Statement, Transport};

pub use self::builder::Builder;
pub use self::replica::{Checkpoint, Replica, parse_lsn, rows};
pub use self::session::Session;

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

impl Pipeline {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A pipeline with the sinks `eu` and `na`, its engine running and caught up with `sql`.
    pub fn started(sql: &str, schema: &Value) -> Pipeline {
        let mut pipeline = Pipeline::builder().build(sql, schema);
        pipeline.begin();
        pipeline
    }

    /// Starts the engine for the first time, and waits until all that there is at the source has come by the fill: what
    /// is written from now on comes by the stream alone.
    pub fn begin(&mut self) {
        self.start();
        self.catch_up();
        // The replicas have their first position before the stream starts.
        self.await_log("streaming");
        self.sinks.iter().for_each(|sink| self.filled(sink));
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

    /// The server's major version.
    pub fn major_version(&self) -> u32 {
        self.ask("SELECT current_setting('server_version_num')::int / 10000").parse().unwrap()
    }

    /// Asserts how many transactions a replica has applied. Before Postgres 15 the server also sends those that are empty
    /// once what is not published is left out, such as autovacuum's: there it may be more.
    pub fn assert_transactions(&self, replica: &Replica, expected: i64) {
        let applied = replica.checkpoint().unwrap().transactions;
        let is_right = applied == expected || self.major_version() < 15 && applied > expected;
        assert!(is_right, "{applied} transactions, not {expected}: {}", replica.path.display());
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
