//! Good and bad files and environments, with the exact words.

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

const KIB: usize = 1 << 10;

const SINK: &str = "[[sink]]\nname = \"eu\"\ntype = \"sqlite\"\npath = \"eu.db\"\n";

const EVERYTHING: &str = r#"
schema = "tables/schema.json"
[source]
url = "postgres://walcast:hunter2@db/app"
slot = "walcast_eu"
publication = "Every table"
slot_create_timeout = "2min"
status_interval = "500ms"
idle_checkpoint_interval = "1min"
max_message_bytes = "64MiB"
[[sink]]
name = "eu"
type = "sqlite"
path = "replicas/eu.db"
on_rejected = "halt"
[[sink]]
name = "bench-1"
type = "null"
[batch]
max_rows = 100
max_bytes = 65536
[queue]
max_bytes = "4MiB"
patience = "500ms"
[catch_up]
max_wal = "10GiB"
[transaction]
part_max_bytes = "512KiB"
[retry]
initial = "10ms"
max = "5s"
[shutdown]
timeout = "3s"
[schedule]
every = "2min"
max_duration = "90s"
[heartbeat]
interval = "15s"
[d1]
requests_per_5_minutes = "600"
[log]
level = "info,walcast=debug"
format = "json"
sync_file = "sync.db"
retention = "30days"
max_entries = 5000
max_key_bytes = "1MB"
[admin]
listen = "127.0.0.1:8080"
secret = "correct-horse-battery-staple"
protect_reads = true
hosts = ["Walcast.internal"]
stall_timeout = "3min"
max_dead_letters = 10
"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config> {
    Config::read(Some((Path::new("etc/walcast.toml"), text)), &environment(variables), Requires::Everything)
}

fn url(config: &Config) -> Option<&str> {
    config.source.url.as_ref().map(|url| url.expose_secret())
}

fn secret(config: &Config) -> Option<&str> {
    config.admin.secret.as_ref().map(|secret| secret.expose_secret())
}

/// Asserts the exact lines of the error.
fn assert_wrong(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let error = read(text, variables).expect_err(text);
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn every_key_is_read_and_paths_start_at_the_file() {
    let config = read(EVERYTHING, &[]).unwrap();
    assert_eq!(config.schema, Path::new("etc/tables/schema.json"));
    assert_eq!(url(&config), Some("postgres://walcast:hunter2@db/app"));
    assert_eq!(config.source.slot, "walcast_eu");
    assert_eq!(config.source.publication, "Every table");
    assert_eq!(config.source.slot_create_timeout, Duration::from_secs(120));
    assert_eq!(config.source.status_interval, Duration::from_millis(500));
    assert_eq!(config.source.idle_checkpoint_interval, Duration::from_secs(60));
    assert_eq!(config.source.max_message_bytes, 64 * MIB);
    let eu = Sink {
        name: "eu".parse().unwrap(),
        target: SinkTarget::Sqlite { path: "etc/replicas/eu.db".into() },
        on_rejected: OnRejected::Halt,
    };
    let bench = Sink {
        name: "bench-1".parse().unwrap(),
        target: SinkTarget::Null,
        on_rejected: OnRejected::DeadLetter,
    };
    assert_eq!(config.sinks, [eu, bench]);
    assert_eq!((config.batch.max_rows, config.batch.max_bytes), (100, 64 * KIB));
    assert_eq!((config.queue.max_bytes, config.transaction.part_max_bytes), (4 * MIB, 512 * KIB));
    assert_eq!(config.queue.patience, Duration::from_millis(500));
    assert_eq!(config.catch_up.max_wal, Some(10 << 30));
    assert_eq!((config.retry.initial, config.retry.max), (Duration::from_millis(10), Duration::from_secs(5)));
    assert_eq!(config.shutdown.timeout, Duration::from_secs(3));
    assert_eq!(config.heartbeat.interval, Some(Duration::from_secs(15)));
    let schedule = config.schedule.unwrap();
    assert_eq!((schedule.every, schedule.max_duration), (Duration::from_secs(120), Duration::from_secs(90)));
    assert_eq!((config.log.level.as_str(), config.log.format), ("info,walcast=debug", LogFormat::Json));
    assert_eq!(config.log.sync_file.as_deref(), Some(Path::new("etc/sync.db")));
    assert_eq!((config.log.retention, config.log.max_entries), (Duration::from_secs(30 * 86_400), 5000));
    assert_eq!(config.log.max_key_bytes, 1_000_000);
    let admin = &config.admin;
    assert_eq!(admin.listen, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(secret(&config), Some("correct-horse-battery-staple"));
    assert_eq!((admin.protect_reads, admin.hosts.as_slice()), (true, &["walcast.internal".to_owned()][..]));
    assert_eq!((admin.stall_timeout, admin.max_dead_letters), (Duration::from_secs(180), Some(10)));
}

#[test]
fn a_sink_is_enough_and_the_rest_has_defaults() {
    let config = read(SINK, &[]).unwrap();
    assert_eq!(config.schema, Path::new("etc/schema.json"));
    assert!(config.source.url.is_none());
    assert_eq!((config.source.slot.as_str(), config.source.publication.as_str()), ("walcast", "walcast"));
    assert_eq!(config.source.max_message_bytes, 256 * MIB);
    assert_eq!((config.batch.max_rows, config.batch.max_bytes), (5000, MIB));
    assert_eq!((config.queue.max_bytes, config.transaction.part_max_bytes), (8 * MIB, MIB));
    assert_eq!(config.queue.patience, Duration::from_secs(2));
    assert_eq!(config.catch_up.max_wal, None);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn names_whose_slots_for_catching_up_would_collide_or_be_cut_are_refused() {
    let sink = |name: &str| format!("[[sink]]\nname = \"{name}\"\ntype = \"null\"\n");
    assert_wrong(
        &[sink("us-east"), sink("us_east")].concat(),
        &[],
        &["walcast.toml:5:8: sink[1].name: sink[0]'s slot would have the same name, walcast__us_east"],
    );
    let slot = "s".repeat(50);
    assert_eq!(slot_copy(&slot, "us-east"), format!("{slot}__us_east"));
    assert_wrong(
        &format!("[source]\nslot = \"{slot}\"\n{}[catch_up]\nmax_wal = 1\n", sink("australia-east")),
        &[],
        &[
            &format!(
                "walcast.toml:4:8: sink[0].name: its slot while it catches up would be named \
                 {slot}__australia_east, which is longer than 63 bytes"
            ),
            "walcast.toml:7:11: catch_up.max_wal: must be at least 1.0 MiB",
        ],
    );
}

#[test]
fn the_environment_alone_is_enough() {
    let variables = [
        ("DATABASE_URL", "postgres://db/app"),
        ("WALCAST_SINK__0__NAME", "eu"),
        ("WALCAST_SINK__0__TYPE", "sqlite"),
        ("WALCAST_SINK__0__PATH", "eu.db"),
        ("WALCAST_SINK__1__NAME", "bench"),
        ("WALCAST_SINK__1__TYPE", "null"),
        ("WALCAST_SCHEMA", "/etc/schema.json"),
        ("WALCAST_SERVICE_HOST", "10.0.0.1"),
        ("WALCAST_PORT__X", "none of ours"),
    ];
    let config = Config::read(None, &environment(&variables), Requires::Everything).unwrap();
    assert_eq!(config.schema, Path::new("/etc/schema.json"));
    assert_eq!(config.sinks[0].target, SinkTarget::Sqlite { path: "eu.db".into() });
    assert_eq!(config.sinks[1].name.as_str(), "bench");
}

#[test]
fn no_section_is_out_of_the_environments_reach() {
    let everything: toml::Table = EVERYTHING.parse().unwrap();
    for (name, value) in everything.into_iter().filter(|(_, value)| !value.is_str()) {
        let place = if value.is_array() { "__0" } else { "" };
        let variable = format!("WALCAST_{}{place}__NONSENSE", name.to_uppercase());
        let error = read(EVERYTHING, &[(&variable, "1")]).expect_err(&variable);
        assert!(error.to_string().contains(&variable), "{error}");
    }
    let config =
        read(EVERYTHING, &[("WALCAST_SCHEMA_CHANGES", "manual"), ("WALCAST_BACKFILL__MODE", "never")]);
    let config = config.unwrap();
    assert_eq!((config.schema_changes, config.backfill.mode), (SchemaChanges::Manual, BackfillMode::Never));
}

#[test]
fn without_file_and_environment_the_error_names_what_is_missing() {
    Config::read(None, &environment(&[]), Requires::Source).unwrap();
    let error = Config::read(None, &environment(&[]), Requires::Everything).unwrap_err();
    let expected = "the configuration: sink: there is no sink: add a [[sink]] with name, type and path";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = Config::load(Some(Path::new("no/such.toml")), &environment(&[])).unwrap_err();
    assert_eq!(error.to_string(), "no/such.toml cannot be read");
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = [
        ("DATABASE_URL", "postgres://other/app"),
        ("RUST_LOG", "debug"),
        ("LOG_LEVEL", "error"),
        ("LOG_FORMAT", "text"),
        ("WALCAST_SOURCE__SLOT", "other"),
        ("WALCAST_BATCH__MAX_ROWS", "7"),
        ("WALCAST_QUEUE__MAX_BYTES", "2MiB"),
        ("WALCAST_SINK__0__PATH", "/data/${eu}.db"),
        ("WALCAST_RETRY__MAX", ""),
    ];
    let config = read(EVERYTHING, &variables).unwrap();
    assert_eq!(url(&config), Some("postgres://other/app"));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.source.slot, "other");
    assert_eq!((config.batch.max_rows, config.queue.max_bytes), (7, 2 * MIB));
    assert_eq!(config.sinks[0].target, SinkTarget::Sqlite { path: "/data/${eu}.db".into() });
    assert_eq!(config.retry.max, Duration::from_secs(5));
    let own = [("DATABASE_URL", "postgres://other/app"), ("WALCAST_SOURCE__URL", "postgres://own/app")];
    assert_eq!(url(&read(EVERYTHING, &own).unwrap()), Some("postgres://own/app"));
    let own = [("RUST_LOG", "debug"), ("WALCAST_LOG__LEVEL", "warn")];
    assert_eq!(read(EVERYTHING, &own).unwrap().log.level, "warn");
}

#[test]
fn the_url_may_lie_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("walcast.toml");
    std::fs::write(directory.path().join("url"), "postgres://walcast:hunter2@db/app\n").unwrap();
    std::fs::write(directory.path().join("nothing"), "\n").unwrap();
    std::fs::write(&file, format!("{SINK}[source]\nurl_file = \"url\"\n")).unwrap();
    let config = Config::load(Some(&file), &environment(&[])).unwrap();
    assert_eq!(url(&config), Some("postgres://walcast:hunter2@db/app"));
    let config = Config::load(Some(&file), &environment(&[("DATABASE_URL", "postgres://env/")])).unwrap();
    assert_eq!(url(&config), Some("postgres://env/"));
    let both = [("DATABASE_URL", "postgres://env/"), ("DATABASE_URL_FILE", "url")];
    let error = Config::load(Some(&file), &environment(&both)).unwrap_err();
    assert_eq!(error.to_string(), "DATABASE_URL_FILE: url is set too: say one of them");
    let error = Config::load(Some(&file), &environment(&[("DATABASE_URL_FILE", "nothing")])).unwrap_err();
    assert_eq!(error.to_string(), "DATABASE_URL_FILE: the file is empty");
    let error = Config::load(Some(&file), &environment(&[("DATABASE_URL_FILE", "gone")])).unwrap_err();
    assert!(error.to_string().starts_with("DATABASE_URL_FILE: the file cannot be read: "), "{error}");
}

#[test]
fn strings_take_in_variables() {
    let text = r#"
schema = "$${x}/${EMPTY:-a}${SET:-b}/${SET}.json"
source.url = "postgres://walcast:p$ss${SET}@db"
batch.max_rows = "${ROWS}"
sink = [{ name = "${NAME:-eu}", type = "null" }]
"#;
    let variables = [("SET", "set"), ("ROWS", "12"), ("EMPTY", "")];
    let config = read(text, &variables).unwrap();
    assert_eq!(config.schema, Path::new("etc/${x}/aset/set.json"));
    assert_eq!(url(&config), Some("postgres://walcast:p$ssset@db"));
    assert_eq!(config.batch.max_rows, 12);
    assert_eq!(config.sinks[0].name.as_str(), "eu");
    assert_wrong(
        text,
        &[("SET", "set")],
        &["walcast.toml:4:18: batch.max_rows: the environment variable ROWS is not set"],
    );
    let variables = [("SET", "set"), ("WALCAST_BATCH__MAX_ROWS", "3")];
    assert_eq!(read(text, &variables).unwrap().batch.max_rows, 3);
    assert_wrong(
        &format!("{SINK}[source]\nslot = \"${{A\""),
        &[],
        &["walcast.toml:6:8: source.slot: a ${ has no }; write $${ for the characters themselves"],
    );
}

#[test]
fn wrong_syntax_is_told_where_it_is() {
    let cases = [
        ("[source\nslot = 1", "walcast.toml:1:8: unclosed table, expected `]`"),
        ("slot =", "walcast.toml:1:7: string values must be quoted, expected literal string"),
        ("a = 1\na = 2", "walcast.toml:2:1: duplicate key"),
    ];
    for (text, expected) in cases {
        assert_wrong(text, &[], &[expected]);
    }
}

#[test]
fn every_mistake_is_told_at_once_and_in_order() {
    assert_wrong(
        r#"
schema = 5
shema = "x"
[source]
slot = "Walcast"
slots = "x"
publication = ""
status_interval = "1h"
slot_create_timeout = 30
idle_checkpoint_interval = "soon"
max_message_bytes = "2GiB"
[[sink]]
name = "EU"
type = "sqlite"
on_rejected = "dead_letter"
[[sink]]
name = "a"
type = "d2"
[[sink]]
name = "a"
type = "null"
path = "x.db"
[[sink]]
name = "b"
type = "sqlite"
path = "b.db"
[[sink]]
type = "sqlite"
path = "./b.db"
[[sink]]
[batch]
max_rows = 0
max_bytes = "1MB and more"
[queue]
max_bytes = -1
[transaction]
part_max_bytes = "16MiB"
[retry]
initial = "40s"
[shutdown]
timeout = "0s"
[log]
level = "inof"
format = "jsn"
[sinks]
"#,
        &[],
        &[
            "walcast.toml:2:10: schema: expected path string, found a number",
            "walcast.toml:3:1: shema: unknown key, did you mean \"schema\"?",
            "walcast.toml:5:8: source.slot: a slot's name is 1 to 63 of a-z, 0-9 and _",
            "walcast.toml:6:1: source.slots: unknown key, did you mean \"slot\"?",
            "walcast.toml:7:15: source.publication: a publication's name has 1 to 63 bytes",
            "walcast.toml:8:19: source.status_interval: must be from 10ms to 30s",
            "walcast.toml:9:23: source.slot_create_timeout: expected a time with its unit, such as \"30s\" or \"50ms\"",
            "walcast.toml:10:28: source.idle_checkpoint_interval: expected a time with its unit, such as \"30s\" or \
             \"50ms\"",
            "walcast.toml:11:21: source.max_message_bytes: must be from 1.0 MiB to 1.0 GiB",
            "walcast.toml:12:1: sink[0].path: a sqlite sink needs a path",
            "walcast.toml:13:8: sink[0].name: a sink's name is 1 to 32 of a-z, 0-9, _ and -",
            "walcast.toml:15:15: sink[0].on_rejected: unknown value, did you mean \"dead-letter\"?",
            "walcast.toml:18:8: sink[1].type: unknown value, expected one of sqlite, d1, d1-worker, null",
            "walcast.toml:20:8: sink[2].name: sink[1] has this name already",
            "walcast.toml:22:8: sink[2].path: a null sink has no path",
            "walcast.toml:27:1: sink[4].name: a sink needs a name",
            "walcast.toml:29:8: sink[4].path: sink[3] has this path already",
            "walcast.toml:30:1: sink[5].name: a sink needs a name",
            "walcast.toml:30:1: sink[5].type: a sink needs a type: \"sqlite\", \"d1\", \"d1-worker\" or \"null\"",
            "walcast.toml:32:12: batch.max_rows: must be from 1 to 1000000",
            "walcast.toml:33:13: batch.max_bytes: expected a number of bytes, such as 4096 or \"1MiB\"",
            "walcast.toml:35:13: queue.max_bytes: expected a number of bytes, such as 4096 or \"1MiB\"",
            "walcast.toml:37:18: transaction.part_max_bytes: must not be more than queue.max_bytes, which is 8.0 MiB",
            "walcast.toml:39:11: retry.initial: must not be more than retry.max, which is 30s",
            "walcast.toml:41:11: shutdown.timeout: must be from 100ms to 1h",
            "walcast.toml:43:9: log.level: expected off, error, warn, info, debug, trace, or directives such as \
             info,walcast=debug",
            "walcast.toml:44:10: log.format: unknown value, did you mean \"json\"?",
            "walcast.toml:45:2: sinks: unknown key, did you mean \"sink\"?",
        ],
    );
}

#[test]
fn a_schedule_says_how_often_and_its_runs_fit_in_between() {
    let with = |lines: &str| format!("[schedule]\n{lines}\n{SINK}");
    for (lines, problem) in [
        ("", "walcast.toml:1:1: schedule: every is missing"),
        (
            "every = \"10s\"",
            "walcast.toml:1:1: schedule.max_duration: must not be more than schedule.every, which is 10s",
        ),
        (
            "every = \"500ms\"\nmax_duration = \"200ms\"",
            "walcast.toml:2:9: schedule.every: must be from 1s to 1day",
        ),
    ] {
        assert_wrong(&with(lines), &[], &[problem]);
    }
}

#[test]
fn one_bracket_too_few_is_explained() {
    assert_wrong(
        "[sink]\nname = \"eu\"",
        &[],
        &["walcast.toml:1:1: sink: expected an array, written [[sink]], found a table"],
    );
}

#[test]
fn wrong_variables_are_told_by_their_names() {
    assert_wrong(
        &format!("log = 1\n{SINK}"),
        &[
            ("WALCAST_SOURCE__SLOTT", "x"),
            ("WALCAST_SOURCE__SLOT", "X"),
            ("WALCAST_BATCH__MAX_ROWS", "many"),
            ("WALCAST_SINK__3__NAME", "x"),
            ("LOG_FORMAT", "xml"),
        ],
        &[
            "walcast.toml:1:7: log: expected a table with keys, found a number",
            "LOG_FORMAT: there is nothing to put this into",
            "WALCAST_BATCH__MAX_ROWS: expected a whole number",
            "WALCAST_SINK__3__NAME: there is nothing to put this into",
            "WALCAST_SOURCE__SLOT: a slot's name is 1 to 63 of a-z, 0-9 and _",
            "WALCAST_SOURCE__SLOTT: unknown key, did you mean \"slot\"?",
        ],
    );
}

#[test]
fn both_ways_to_the_url_in_one_file_are_an_error() {
    assert_wrong(
        &format!("source.url = \"postgres://\"\nsource.url_file = \"url\"\n{SINK}"),
        &[],
        &["walcast.toml:2:19: source.url_file: url is set too: say one of them"],
    );
}

#[test]
fn secrets_enter_neither_debug_nor_errors() {
    let shown = format!("{:?}", read(EVERYTHING, &[]).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    // The URL in every place where it does not belong, and with every kind of syntax error behind it.
    let secret = "postgres://walcast:hunter2@db, expected hunter2`hunter2`";
    let mut keys = vec!["schema", "source", "sink", "batch", "log", "hunter", "source.url.x"];
    keys.extend(["source.slot", "source.publication", "source.status_interval", "source.max_message_bytes"]);
    keys.extend([
        "source.url_file",
        "batch.max_rows",
        "queue.max_bytes",
        "retry.max",
        "log.level",
        "log.format",
    ]);
    for key in keys {
        for text in [
            format!("{key} = \"{secret}\"\n"),
            format!("{key} = \"{secret}\n"),
            format!("{key} = {secret}\n"),
            format!("{key} = \"${{DATABASE_URL}}\"\n"),
            format!("{key} = [\"{secret}\"]\n"),
            format!(
                "sink = [{{ name = \"{secret}\", type = \"{secret}\", on_rejected = \"{secret}\" }}]\n{key} = 1\n"
            ),
        ] {
            let error = read(&text, &[("DATABASE_URL", secret), ("LOG_FORMAT", secret)]).unwrap_err();
            let shown = format!("{error} {error:?} {}", error.chain());
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
        }
    }
    let error =
        read(SINK, &[("WALCAST_SOURCE__URL__X", secret), ("WALCAST_LOG__LEVEL", secret)]).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

proptest! {
    #[test]
    fn any_text_is_accepted_or_an_error(text in any::<String>()) {
        let _ = read(&text, &[]);
    }

    #[test]
    fn any_damage_to_a_good_text_is_accepted_or_an_error(
        at in 0..EVERYTHING.len(), len in 0..20usize, with in ".{0,4}"
    ) {
        let mut text = EVERYTHING.to_owned();
        text.replace_range(at..(at + len).min(EVERYTHING.len()), &with);
        let _ = read(&text, &[]);
    }

    #[test]
    fn any_variable_is_accepted_or_an_error(
        name in "(SOURCE|SINK|BATCH|LOG|SCHEMA)?(__[A-Z0-9_]{0,6}){0,3}", value in ".*"
    ) {
        let variables = environment(&[(&format!("WALCAST_{name}"), &value)]);
        let _ = Config::read(Some((Path::new("walcast.toml"), SINK)), &variables, Requires::Everything);
    }
}

#[test]
fn the_api_is_off_without_an_address_and_keeps_to_this_machine_without_a_secret() {
    assert_eq!(read(SINK, &[]).unwrap().admin.listen, None);
    let listen = |address: &str, secret: &str| format!("{SINK}[admin]\nlisten = \"{address}\"\n{secret}");
    for address in ["127.0.0.1:0", "[::1]:8080"] {
        assert_eq!(secret(&read(&listen(address, ""), &[]).unwrap()), None);
    }
    for address in ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080"] {
        let message = "walcast.toml:6:10: admin.listen: an address beyond loopback needs admin.secret (or \
                       WALCAST_ADMIN_SECRET) of at least 32 characters: openssl rand -hex 32";
        assert_wrong(&listen(address, ""), &[], &[message]);
        let message = "walcast.toml:7:10: admin.secret: beyond loopback it must have at least 32 characters";
        assert_wrong(&listen(address, "secret = \"short\""), &[], &[message]);
        let long = "x".repeat(SECRET_MIN_CHARS);
        let config = read(&listen(address, ""), &[("WALCAST_ADMIN_SECRET", &long)]).unwrap();
        assert_eq!(secret(&config), Some(&*long));
    }
}

#[test]
fn the_secret_comes_from_a_variable_or_a_file_and_is_never_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-a-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let written = format!("{SINK}[admin]\nsecret = \"from-the-text\"\n");
    let config = read(&written, &[("WALCAST_ADMIN_SECRET_FILE", path)]).unwrap();
    assert_eq!(secret(&config), Some("from-a-file"));
    let both = [("WALCAST_ADMIN_SECRET_FILE", path), ("WALCAST_ADMIN__SECRET", "our-own")];
    let config = read(&written, &both).unwrap();
    assert_eq!(secret(&config), Some("our-own"));
    assert!(!format!("{config:?}").contains("our-own"));
    let message = "walcast.toml:6:10: admin.secret: only visible ASCII characters can travel in a header";
    assert_wrong(&format!("{SINK}[admin]\nsecret = \"zwölf Boxer\"\n"), &[], &[message]);
}

#[test]
fn a_stall_is_not_called_before_an_idle_stream_has_moved() {
    let text =
        format!("[source]\nidle_checkpoint_interval = \"40s\"\n{SINK}[admin]\nlisten = \"127.0.0.1:0\"\n");
    let message = "walcast.toml:7:1: admin.stall_timeout: must be at least twice source.idle_checkpoint_interval: until \
                   then an idle stream moves nothing";
    assert_wrong(&text, &[], &[message]);
    read(&text, &[("WALCAST_ADMIN__STALL_TIMEOUT", "80s"), ("WALCAST_ADMIN__PROTECT_READS", "true")])
        .unwrap();
}

const D1: &str = "[[sink]]\nname = \"eu\"\ntype = \"d1\"\n";
const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

fn targets(text: &str, variables: &[(&str, &str)]) -> Vec<SinkTarget> {
    read(text, variables).unwrap().sinks.into_iter().map(|sink| sink.target).collect()
}

#[test]
fn a_d1_sink_is_described_by_keys_or_by_a_dsn_and_its_token_by_the_environment() {
    let database = D1Database {
        account_id: ACCOUNT.to_owned(),
        database: "walcast-eu".to_owned(),
        api_token: Secret::from("token"),
        base_url: "https://api.cloudflare.com/client/v4".to_owned(),
    };
    let writing = D1Writing { request_max_rows: 20_000, request_max_bytes: 4 * MIB, skip_unchanged: false };
    let expected = [SinkTarget::D1(database.clone(), writing)];
    let keys = format!("{D1}account_id = \"{ACCOUNT}\"\ndatabase = \"walcast-eu\"\n");
    let dsn = format!("{D1}dsn = \"d1://{ACCOUNT}/walcast-eu\"\n");
    let name = format!("{D1}database = \"walcast-eu\"\n");
    let token = ("CLOUDFLARE_API_TOKEN", "token");
    assert_eq!(targets(&keys, &[token]), expected);
    assert_eq!(targets(&dsn, &[token]), expected);
    assert_eq!(targets(&name, &[token, ("CLOUDFLARE_ACCOUNT_ID", ACCOUNT)]), expected);
    // What the sink says itself counts.
    let own = format!("{keys}api_token = \"token\"\nbase_url = \"http://127.0.0.1:80/v4/\"\n");
    let local = D1Database { base_url: "http://127.0.0.1:80/v4".to_owned(), ..database };
    assert_eq!(targets(&own, &[("CLOUDFLARE_API_TOKEN", "another")]), [SinkTarget::D1(local, writing)]);
    assert!(!format!("{:?}", targets(&own, &[])).contains("\"token\""), "secrets are kept from sight");
}

#[test]
fn a_worker_sink_has_a_url_a_binding_and_a_key() {
    let text = "[[sink]]\nname = \"eu\"\ntype = \"d1-worker\"\nurl = \"https://walcast.example.workers.dev/\"\n\
                binding = \"DB_EU\"\nrequest_max_rows = 100\nrequest_max_bytes = \"64KiB\"\nskip_unchanged = true\n";
    let worker = D1Worker {
        url: "https://walcast.example.workers.dev".to_owned(),
        binding: "DB_EU".to_owned(),
        key: Secret::from("secret"),
    };
    let writing = D1Writing { request_max_rows: 100, request_max_bytes: 64 << 10, skip_unchanged: true };
    assert_eq!(targets(text, &[("WALCAST_WORKER_KEY", "secret")]), [SinkTarget::D1Worker(worker, writing)]);
}

#[test]
fn what_is_wrong_with_a_d1_sink_is_named_at_its_place() {
    assert_wrong(
        D1,
        &[],
        &[
            "walcast.toml:1:1: sink[0].account_id: a d1 sink needs an account_id, or CLOUDFLARE_ACCOUNT_ID",
            "walcast.toml:1:1: sink[0].api_token: needed: api_token, api_token_file or the variable \
             CLOUDFLARE_API_TOKEN",
            "walcast.toml:1:1: sink[0].database: a d1 sink needs a database: its name or its id",
        ],
    );
    let text = format!(
        "{D1}dsn = \"d1:eu\"\npath = \"eu.db\"\napi_token = \"x\"\napi_token_file = \"y\"\nrequest_max_rows = 1\n"
    );
    assert_wrong(
        &text,
        &[],
        &[
            "walcast.toml:4:7: sink[0].dsn: expected d1://account/database",
            "walcast.toml:5:8: sink[0].path: a d1 sink has no path",
            "walcast.toml:7:18: sink[0].api_token_file: api_token is set too: say one of them",
            "walcast.toml:8:20: sink[0].request_max_rows: must be from 50 to 100000",
        ],
    );
    // A Worker has less memory than the API's limits ask for.
    let worker = "[[sink]]\nname = \"eu\"\ntype = \"d1-worker\"\nurl = \"https://example.com\"\nbinding = \"DB\"\n\
                  key = \"x\"\nrequest_max_bytes = \"5MiB\"\n";
    assert_wrong(
        worker,
        &[],
        &["walcast.toml:7:21: sink[0].request_max_bytes: must be from 64.0 KiB to 4.0 MiB"],
    );
    let two =
        format!("{D1}account_id = \"{ACCOUNT}\"\ndatabase = \"a\"\nbase_url = \"http://example.com\"\n");
    let two = format!("{two}{}", two.replace("eu", "na").replace("http:", "https:"));
    assert_wrong(
        &two,
        &[("CLOUDFLARE_API_TOKEN", "token")],
        &[
            "walcast.toml:6:12: sink[0].base_url: expected a URL that begins with https:// (or http://127.0.0.1, for tests)",
            "walcast.toml:11:12: sink[1].database: sink[0] has this database already",
        ],
    );
}
