//! What is measured, what the README says is measured, and what dashboard and alerts ask for, are the same.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use http::Api;
use pipeline::Pipeline;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_yaml_ng::from_str(&file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The metrics that the README lists, with their labels beside `sink`.
fn listed() -> BTreeSet<String> {
    let readme = file("README.md");
    let (_, list) = readme.split_once("**Metrics**, all `walcast_…`: ").unwrap();
    let (list, _) = list.split_once(" A Grafana dashboard").unwrap();
    let names = list.split('`').skip(1).step_by(2).filter(|name| *name != "sink");
    names.map(|name| format!("walcast_{}", name.split('{').next().unwrap())).collect()
}

/// The names in a text that are metrics of ours; those of a histogram's parts are the histogram's.
fn named(text: &str, metrics: &BTreeSet<String>) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let whole = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        let stem = parts.iter().find_map(|part| word.strip_suffix(part));
        stem.filter(|stem| metrics.contains(*stem)).unwrap_or(word).to_owned()
    };
    words.filter(|word| word.starts_with("walcast_")).map(whole).collect()
}

/// Every value of this key, at any depth.
fn values<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let (true, Some(text)) = (name == key, value.as_str()) {
                    found.push(text);
                }
                values(value, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

#[test]
fn what_a_running_engine_measures_is_what_the_readme_lists_and_all_that_is_asked_for() {
    let schema = json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}});
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n[heartbeat]\ninterval = \"1s\"\n"
        ))
        .sink("eu", "")
        .d1("weur", "")
        .build("CREATE TABLE t (id int PRIMARY KEY, n int)", &schema);
    pipeline.start();
    pipeline.await_log("streaming");
    let api = Api::of(&pipeline);
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    pipeline.catch_up();
    let listed = listed();
    let measured = pipeline.eventually("everything to be measured", || {
        // What only a look into the targets shows is measured with it.
        api.get("/status");
        let text = api.get("/metrics").body;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let measured: BTreeSet<String> = types.map(str::to_owned).collect();
        measured.is_superset(&listed).then_some((measured, text))
    });
    let (measured, text) = measured;
    assert_eq!(measured, listed, "the README's list is not what there is");
    for name in &measured {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not described");
    }
    // Before anything happens, so that a first time is seen as one more.
    for sample in [
        "walcast_retries_total{sink=\"eu\",reason=\"transient\"} 0",
        "walcast_sink_state_changes_total{sink=\"eu\",state=\"catching-up\"} 0",
        "walcast_sink_dead_letters_total{sink=\"eu\"} 0",
        "walcast_sink_dead_letters{sink=\"weur\"} 0",
    ] {
        assert!(text.contains(sample), "{sample}");
    }

    let dashboard: Value = serde_json::from_str(&file("docker/compose/grafana/walcast.json")).unwrap();
    let alerts = yaml("docker/compose/alerts.yml");
    let mut expressions = Vec::new();
    values(&dashboard, "expr", &mut expressions);
    values(&alerts, "expr", &mut expressions);
    assert!(expressions.len() > 30);
    for expression in expressions {
        let expression = expression.replace("$__rate_interval", "1m");
        if let Err(error) = promql_parser::parser::parse(&expression) {
            panic!("{expression}: {error}");
        }
    }
    for text in [dashboard.to_string(), alerts.to_string()] {
        let unknown: Vec<String> = named(&text, &measured).difference(&measured).cloned().collect();
        assert_eq!(unknown, [""; 0], "nothing of that name is measured");
    }
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn every_alert_says_what_to_do_and_how_bad_it_is() {
    let alerts = yaml("docker/compose/alerts.yml");
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for rule in rules {
        assert!(names.insert(rule["alert"].as_str().unwrap()), "{rule}");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        let annotations = &rule["annotations"];
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{rule}");
    }
}

#[test]
fn the_compose_file_mounts_what_is_there_and_starts_what_scrapes_it() {
    let compose = yaml("docker/compose.yaml");
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["db", "walcast", "prometheus", "grafana"]);
    let docker = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker");
    let volumes = compose["volumes"].as_object().unwrap();
    for (service, what) in services {
        for mount in what["volumes"].as_array().into_iter().flatten() {
            let (from, _) = mount.as_str().unwrap().split_once(':').unwrap();
            let is_there = match from.starts_with("./") {
                true => docker.join(from).is_file(),
                false => volumes.contains_key(from),
            };
            assert!(is_there, "{service}: {mount}");
        }
        for secret in what["secrets"].as_array().into_iter().flatten() {
            let secret = &compose["secrets"][secret.as_str().unwrap()];
            let path = PathBuf::from(secret["file"].as_str().unwrap());
            assert_eq!(path.parent().unwrap(), Path::new("./compose/secrets"));
            let makes = file("docker/compose/make-secrets");
            assert!(makes.contains(path.file_name().unwrap().to_str().unwrap()), "{path:?} is not made");
        }
    }
    let scraped = yaml("docker/compose/prometheus.yml");
    assert_eq!(scraped["scrape_configs"][0]["static_configs"][0]["targets"], json!(["walcast:8080"]));
    assert_eq!(scraped["rule_files"], json!(["alerts.yml"]));
    let config: toml::Table = file("docker/compose/walcast.toml").parse().unwrap();
    assert_eq!(config["admin"]["listen"].as_str(), Some("0.0.0.0:8080"));
    assert_eq!(config["admin"]["hosts"][0].as_str(), Some("walcast"), "by this name it is scraped");
    let sources = yaml("docker/compose/grafana/datasources.yml");
    assert_eq!(sources["datasources"][0]["uid"], "prometheus");
    let dashboards = yaml("docker/compose/grafana/dashboards.yml");
    assert_eq!(dashboards["providers"][0]["options"]["path"], "/var/lib/grafana/dashboards");
}
