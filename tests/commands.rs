//! The commands as an operator runs them: the binary, against a real server and real replica files.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::NoTls;
use walcast::app::demo::Cluster;

const TABLES: &str = "
    CREATE TABLE customers (id bigint PRIMARY KEY, name text, balance numeric(12,2), tags text[], since timestamptz);
    CREATE INDEX ON customers (since);
    CREATE TABLE orders (
        id int PRIMARY KEY, customer_id bigint, paid boolean, doc jsonb,
        total int, double_total int GENERATED ALWAYS AS (total * 2) STORED
    );
    CREATE TABLE keyless (note text);
    CREATE SCHEMA sales;
    CREATE TABLE sales.invoices (id uuid PRIMARY KEY, pdf bytea);";

/// A source with its own directory of configuration and replicas.
struct Pipeline {
    cluster: Cluster,
    directory: TempDir,
    url: String,
}

impl Pipeline {
    fn start() -> Pipeline {
        Pipeline::start_with(&[])
    }

    fn start_with(settings: &[(&str, &str)]) -> Pipeline {
        let builder =
            settings.iter().fold(Cluster::builder(), |builder, (name, value)| builder.setting(*name, *value));
        let cluster = builder.start().unwrap();
        let directory = TempDir::new().unwrap();
        let pipeline = Pipeline { url: cluster.url(), cluster, directory };
        pipeline.sql(TABLES);
        pipeline.write(
            "walcast.toml",
            "[[sink]]\nname = \"eu\"\ntype = \"sqlite\"\npath = \"data/eu.db\"\n\
             [[sink]]\nname = \"na\"\ntype = \"sqlite\"\npath = \"data/na.db\"\n",
        );
        pipeline
    }

    /// With a schema.json of the tables in `public`.
    fn with_schema(self) -> Pipeline {
        self.ok(&["schema", "generate", "--output", "schema.json"]);
        self
    }

    /// With both replicas fed.
    fn fed(self) -> Pipeline {
        let pipeline = self.with_schema();
        pipeline.ok(&["run", "--until-caught-up"]);
        pipeline
    }

    fn sql(&self, sql: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.cluster.url(), NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(sql).await.unwrap();
        });
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
        command.current_dir(&self.directory).args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PG") || name.starts_with("WALCAST") || name.contains("LOG") {
                command.env_remove(name);
            }
        }
        command.env("DATABASE_URL", &self.url);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that ends with `code`.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (stdout, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        stdout
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.ends(0, arguments)
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ends(code, arguments)).unwrap()
    }

    /// The problems that check finds, as one text.
    fn problems(&self) -> String {
        let report = self.json(3, &["check", "--json"]);
        assert_eq!(report["is_ok"], false);
        let findings = report["findings"].as_array().unwrap();
        let problems: Vec<String> = findings
            .iter()
            .filter(|finding| finding["severity"] == "problem")
            .map(|finding| {
                assert!(finding["remedy"].is_string(), "{finding}");
                format!("{}: {}", finding["subject"].as_str().unwrap(), finding["message"].as_str().unwrap())
            })
            .collect();
        assert_eq!(report["problems"], problems.len());
        problems.join("\n")
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn foreign(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("CREATE TABLE somebody_elses (id INTEGER)").unwrap();
}

#[test]
fn from_the_catalog_to_replicas_and_back_to_nothing() {
    let pipeline = Pipeline::start();

    let output = pipeline.run(&["schema", "generate"]);
    let (generated, notes) = texts(&output);
    assert!(output.status.success(), "{notes}");
    let schema: Value = serde_json::from_str(&generated).unwrap();
    assert_eq!(schema["customers"]["columns"]["balance"], "TEXT");
    assert_eq!(schema["customers"]["columns"]["tags"], "JSON");
    assert_eq!(schema["customers"]["indexes"], serde_json::json!(["since"]));
    assert_eq!(schema["orders"]["columns"]["paid"], "BOOLEAN");
    assert!(schema["orders"]["columns"].get("double_total").is_none());
    assert!(schema.get("keyless").is_none() && schema.get("sales.invoices").is_none());
    for note in ["keyless: left out", "double_total", "--schema takes the others: sales"] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    pipeline.write("schema.json", &generated);
    let output = pipeline.run(&["schema", "generate", "--output", "schema.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("schema.json exists already"));
    pipeline.ok(&["schema", "generate", "--output", "schema.json", "--force"]);
    let one = pipeline.ok(&["schema", "generate", "--table", "sales.invoices", "--table", "orders"]);
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["orders", "sales.invoices"]);
    assert_eq!(one["sales.invoices"]["columns"]["pdf"], "BLOB");

    let check = pipeline.ok(&["check"]);
    assert!(check.contains("slot walcast: it does not exist; walcast creates it"), "{check}");
    assert!(check.contains("sink eu: nothing is there yet"), "{check}");
    let status = pipeline.json(0, &["status", "--json"]);
    assert_eq!(status["slot"]["state"], "not-created");
    assert_eq!(status["sinks"][0]["state"], "not-created");

    pipeline.ok(&["run", "--until-caught-up"]);
    pipeline.sql("INSERT INTO customers (id, name) VALUES (1, 'Ada'), (2, 'Grace')");
    pipeline.ok(&["run", "--until-caught-up"]);

    let status = pipeline.json(0, &["status", "--json"]);
    assert_eq!(status["is_ok"], true);
    assert_eq!(status["slot"]["state"], "ready");
    assert_eq!(status["slot"]["limit_bytes"], Value::Null);
    for sink in status["sinks"].as_array().unwrap() {
        assert_eq!(sink["state"], "attached");
        assert_eq!(sink["transactions"], 1);
        assert_eq!(sink["dead_letters"], 0);
        assert_eq!(sink["lag_seconds"], 0, "{sink}");
    }
    let status = pipeline.ok(&["status"]);
    for part in ["slot    walcast, not in use", "the disk is the limit", "SINK  STATE", "eu    attached"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let check = pipeline.ok(&["check"]);
    assert!(check.contains("ok      sink na: it is at "), "{check}");
    let diff = pipeline.ok(&["schema", "diff"]);
    assert!(diff.contains("info   source  orders.double_total: this column"), "{diff}");
    assert!(diff.contains("keyless: this table is not mapped"), "{diff}");
    assert!(diff.contains("none stops walcast"), "{diff}");

    let output = pipeline.run(&["teardown"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).0.contains("slot walcast: it holds back"));
    assert!(texts(&output).1.contains("walcast teardown --yes"));
    let removed = pipeline.ok(&["teardown", "--yes", "--keep-publication"]);
    assert!(!removed.contains("publication walcast removed"), "{removed}");
    let removed = pipeline.ok(&["teardown", "--yes"]);
    assert!(removed.contains("publication walcast removed") && !removed.contains("slot walcast removed"));
    assert!(pipeline.ok(&["teardown"]).contains("nothing to remove"));
    assert!(removed.contains("walcast nuke --all"), "{removed}");
    assert!(pipeline.path("data/eu.db").exists());
    pipeline.ok(&["nuke", "--all", "--yes"]);
    assert!(pipeline.ok(&["status"]).contains("eu    attached"), "from a new slot");
}

#[test]
fn check_finds_what_is_wrong_with_the_tables() {
    let pipeline = Pipeline::start().with_schema();
    pipeline.sql(
        "ALTER TABLE customers DROP COLUMN name;
         ALTER TABLE customers ALTER balance TYPE uuid USING null;
         ALTER TABLE orders REPLICA IDENTITY NOTHING;
         CREATE PUBLICATION walcast FOR TABLE keyless;",
    );
    let schema = std::fs::read_to_string(pipeline.path("schema.json")).unwrap();
    pipeline.write("schema.json", &schema.replace("\"balance\": \"TEXT\"", "\"balance\": \"INTEGER\""));
    let problems = pipeline.problems();
    for expected in [
        "table customers: column name does not exist at the source",
        "table customers: column balance: uuid as INTEGER: uuid cannot become INTEGER",
        "table orders: its replica identity is NOTHING",
        "publication walcast: it publishes keyless, which has no replica identity",
    ] {
        assert!(problems.contains(expected), "{expected}:\n{problems}");
    }
    assert_eq!(problems.matches("column name").count(), 1, "{problems}");
    let text = pipeline.ends(3, &["check"]);
    assert!(text.is_ascii() && text.lines().last().unwrap().contains(" problems"), "{text}");
}

#[test]
fn check_finds_what_is_wrong_around_the_tables() {
    let mut pipeline = Pipeline::start_with(&[("wal_level", "replica")]).with_schema();
    foreign(&pipeline.path("data/eu.db"));
    pipeline.write("data/na.db", "this is no database, but a text of more than one line\n");
    let problems = pipeline.problems();
    assert!(problems.contains("server: wal_level is replica"), "{problems}");
    assert!(problems.contains("sink eu: data/eu.db is a database that walcast did not create"), "{problems}");
    assert!(problems.contains("sink na: data/na.db is not a SQLite database"), "{problems}");

    std::fs::remove_file(pipeline.path("schema.json")).unwrap();
    pipeline.cluster.stop().unwrap();
    let problems = pipeline.problems();
    assert!(problems.contains("schema.json cannot be read"), "{problems}");
    assert!(problems.contains("connection: "), "{problems}");
    assert!(problems.contains("sink eu: "), "{problems}");
    let status = pipeline.json(1, &["status", "--json"]);
    assert_eq!(status["source"]["is_reachable"], false);
    assert_eq!(status["slot"], Value::Null);
    assert_eq!(status["sinks"][0]["state"], "foreign");
}

#[test]
fn a_role_without_replication_is_found_before_anything_else_fails() {
    let mut pipeline = Pipeline::start();
    pipeline.sql("CREATE ROLE reader LOGIN");
    pipeline.url = pipeline.cluster.url().replace("postgres@", "reader@");
    let pipeline = pipeline.with_schema();
    let problems = pipeline.problems();
    assert!(problems.contains("role reader: it lacks REPLICATION"), "{problems}");
    assert!(problems.contains("may not read"), "{problems}");
}

#[test]
fn a_region_that_is_added_to_others_is_no_problem_because_a_start_fills_it() {
    let pipeline = Pipeline::start().fed();
    std::fs::remove_file(pipeline.path("data/na.db")).unwrap();
    let status = pipeline.json(0, &["status", "--json"]);
    assert_eq!(
        (&status["sinks"][0]["state"], &status["sinks"][1]["state"]),
        (&"attached".into(), &"not-created".into())
    );
    assert!(
        pipeline
            .ok(&["check"])
            .contains("sink na: nothing is there yet; walcast run creates it and fills it")
    );
    let never = pipeline.command(&["check"]).env("WALCAST_BACKFILL__MODE", "never").output().unwrap();
    assert_eq!(never.status.code(), Some(3), "then somebody has to decide");
}

#[test]
fn a_lost_slot_a_foreign_file_and_another_pipelines_file_are_shown_as_such() {
    let pipeline = Pipeline::start().fed();
    std::fs::remove_file(pipeline.path("data/na.db")).unwrap();
    foreign(&pipeline.path("data/na.db"));
    let status = pipeline.json(1, &["status", "--json"]);
    assert_eq!(status["sinks"][0]["state"], "attached");
    assert_eq!(status["sinks"][1]["state"], "foreign");
    assert!(pipeline.problems().starts_with("sink na: "));

    let elsewhere = pipeline.command(&["status", "--json"]).env("WALCAST_SOURCE__SLOT", "other").output();
    let elsewhere: Value = serde_json::from_slice(&elsewhere.unwrap().stdout).unwrap();
    assert_eq!(elsewhere["sinks"][0]["state"], "halted");
    assert!(elsewhere["sinks"][0]["problem"].as_str().unwrap().contains("slot walcast"));

    pipeline.ok(&["teardown", "--yes"]);
    let status = pipeline.json(1, &["status", "--json"]);
    assert_eq!(status["slot"]["state"], "lost");
    assert_eq!(status["sinks"][0]["state"], "needs-backfill");
    assert!(status["slot"]["hint"].as_str().unwrap().contains("walcast nuke --all"));
    let text = pipeline.ends(1, &["status"]);
    assert!(text.contains("eu    needs-backfill") && text.contains("na    foreign"), "{text}");
    let problems = pipeline.problems();
    assert!(problems.contains("slot walcast: slot walcast does not exist, but"), "{problems}");
    assert!(problems.contains("sink eu has a checkpoint, but slot walcast does not exist"), "{problems}");
}

#[test]
fn a_limit_on_the_slots_wal_is_shown_as_time() {
    let pipeline = Pipeline::start_with(&[("max_slot_wal_keep_size", "1GB")]).fed();
    let status = pipeline.json(0, &["status", "--json"]);
    assert_eq!(status["slot"]["limit_bytes"], 1 << 30);
    assert!(status["slot"]["safe_bytes"].as_u64().unwrap() > 0);
    let text = pipeline.ok(&["status"]);
    assert!(text.contains("(limit 1.0 GiB)"), "{text}");
}

#[test]
fn diff_finds_what_the_replicas_were_not_made_for() {
    let pipeline = Pipeline::start().fed();
    let schema = std::fs::read_to_string(pipeline.path("schema.json")).unwrap();
    pipeline.write("schema.json", &schema.replace("\"paid\": \"BOOLEAN\"", "\"paid\": \"TEXT\""));
    let paid = serde_json::json!(["- \"paid\" INTEGER", "+ \"paid\" TEXT"]);
    let config = std::fs::read_to_string(pipeline.path("walcast.toml")).unwrap();
    for (changes, code, stops) in [("auto", 0, false), ("manual", 3, true)] {
        pipeline.write("walcast.toml", &format!("schema_changes = \"{changes}\"\n{config}"));
        let report = pipeline.json(code, &["schema", "diff", "--json"]);
        let differences = report["differences"].as_array().unwrap();
        let at_sinks: Vec<&Value> = differences.iter().filter(|one| one["side"] == "sink").collect();
        assert_eq!(at_sinks.len(), 2);
        assert_eq!((&at_sinks[0]["sink"], &at_sinks[0]["details"]), (&"eu".into(), &paid));
        assert_eq!(at_sinks[0]["stops"], stops);
        let planned = pipeline.json(3, &["schema", "plan", "--json"]);
        assert_eq!(planned["sinks"][0]["steps"][0]["action"], "rebuild");
    }
    assert!(pipeline.problems().contains("its table orders was made for another schema.json"));

    pipeline.sql("DROP TABLE customers");
    let text = pipeline.ends(3, &["schema", "diff"]);
    assert!(
        text.contains("stops  source  customers: table \"public\".\"customers\" does not exist"),
        "{text}"
    );
    assert!(!text.contains("does not map it"), "{text}");
}

#[test]
fn a_key_that_rows_may_share_for_a_moment_is_refused() {
    let pipeline = Pipeline::start().with_schema();
    pipeline.sql(
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
         ALTER TABLE orders REPLICA IDENTITY FULL",
    );
    assert!(pipeline.problems().contains("its primary key is deferrable"));
    let (_, log) = texts(&pipeline.run(&["run", "--until-caught-up"]));
    assert!(log.contains("orders: has a deferrable primary key"), "{log}");
}

#[test]
fn a_running_engine_is_seen_and_not_disturbed() {
    let pipeline = Pipeline::start().fed();
    let mut engine = pipeline.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(engine.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("streaming")));
    let rest = std::thread::spawn(move || log.map_while(Result::ok).collect::<Vec<_>>().join("\n"));

    let status = pipeline.json(0, &["status", "--json"]);
    let pid = status["slot"]["active_pid"].as_u64().unwrap();
    let output = pipeline.run(&["teardown", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains(&format!("in use by backend {pid}")));
    let check = pipeline.ok(&["check"]);
    assert!(check.contains(&format!("backend {pid} uses it")), "{check}");
    let mut watch =
        pipeline.command(&["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let rounds = BufReader::new(watch.stdout.take().unwrap()).lines().take(2);
    let rounds: Vec<Value> = rounds.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(rounds[1]["slot"]["active_pid"], pid);
    // Its reader is gone, so it ends by itself.
    assert!(watch.wait().unwrap().success());

    let engine_pid = rustix::process::Pid::from_child(&engine);
    rustix::process::kill_process(engine_pid, rustix::process::Signal::TERM).unwrap();
    assert!(engine.wait().unwrap().success());
    let rest = rest.join().unwrap();
    assert!(!rest.contains("WARN") && !rest.contains("ERROR"), "{rest}");
}

#[test]
fn no_command_shows_the_password() {
    let mut pipeline = Pipeline::start().with_schema();
    let with_password = pipeline.cluster.tcp_url().replace("postgres@", "postgres:s3cr3t-w0rd@");
    let nowhere = with_password.replace("127.0.0.1:", "127.0.0.1:1").replace("/postgres", "/gone");
    let commands: [&[&str]; 8] = [
        &["check"],
        &["check", "--json"],
        &["run", "--until-caught-up", "--log-level", "trace"],
        &["status"],
        &["status", "--json"],
        &["schema", "diff"],
        &["schema", "generate"],
        &["teardown", "--yes", "--log-level", "trace"],
    ];
    for url in [with_password.clone(), format!("{with_password}?sslmode=nonsense"), nowhere] {
        pipeline.url = url;
        for command in commands {
            let (stdout, stderr) = texts(&pipeline.run(command));
            assert!(!stdout.is_empty() || !stderr.is_empty());
            assert!(
                !stdout.contains("s3cr3t") && !stderr.contains("s3cr3t"),
                "{command:?}: {stdout}{stderr}"
            );
        }
    }
}

#[test]
fn help_has_examples_and_the_schemas_and_completions_are_printed() {
    let pipeline = Pipeline::start();
    for command in ["run", "check", "status", "teardown"] {
        let help = pipeline.ok(&[command, "--help"]);
        assert!(help.contains("Examples:\n  walcast "), "{help}");
    }
    let schema: Value = serde_json::from_str(&pipeline.ok(&["schema", "json-schema"])).unwrap();
    assert_eq!(schema["title"], "walcast schema.json");
    assert!(pipeline.ok(&["completions", "bash"]).contains("_walcast"));
    pipeline.ends(2, &["schema", "generate", "--force"]);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let pipeline = Pipeline::start().with_schema();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = pipeline.command(&["run", "--until-caught-up"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
