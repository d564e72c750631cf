//! The web page in a real Chromium, on a real engine: each control does what it says, and hostile names and values are
//! shown as the text that they are. The steps are in `tests/page`.

#[path = "support/http.rs"]
mod http;
#[path = "support/page.rs"]
mod page;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::Api;
use pipeline::Pipeline;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const REGIONS: [&str; 6] = ["na", "eu", "asia", "sa", "oc", "af"];
const CREATE: &str = "
    CREATE TABLE apps (id int PRIMARY KEY, name text, size numeric);
    CREATE TABLE versions (app int, version text, state text, PRIMARY KEY (app, version));";

fn schema() -> Value {
    json!({
        "apps": {"primaryKey": "id", "columns": {"id": "INTEGER", "name": "TEXT", "size": "INTEGER"}},
        "versions": {
            "primaryKey": ["app", "version"], "columns": {"app": "INTEGER", "version": "TEXT", "state": "TEXT"}
        },
    })
}

/// Six regions in step, and the API. The server keeps so much WAL for a slot that it cannot get narrow.
fn started(admin: &str, create: &str, schema: &Value) -> (Pipeline, Api) {
    let mut builder = Pipeline::builder().setting("max_slot_wal_keep_size", "8GB").sections(&format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{admin}\n[log]\nsync_file = \"sync-log.db\"\n"
    ));
    for region in REGIONS {
        builder = builder.sink(region, "");
    }
    let mut pipeline = builder.build(create, schema);
    pipeline.begin();
    let api = Api::of(&pipeline);
    (pipeline, api)
}

#[test]
fn every_control_of_the_page_does_what_it_says() {
    let (mut pipeline, api) = started("", CREATE, &schema());
    page::run(&mut pipeline, &api, SECRET, "controls.js", &[]);
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains(SECRET) && !pipeline.log().contains("a-guess"));
}

#[test]
fn hostile_names_and_values_are_shown_as_the_text_that_they_are() {
    let names = [
        "<img src=x onerror=hacked=1>",
        "'`;--\"</style></script><b>",
        "\u{202e}right to left \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    ];
    let values = [
        "<img src=x onerror='window.hacked=1'>".to_owned(),
        "</script><script>window.hacked=1</script>".to_owned(),
        "\"'`\\ ${window.hacked=1} javascript:window.hacked=1 &lt;b&gt;\u{0}".replace('\u{0}', "\u{1}"),
        "\u{202e}\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{200f}<b>".to_owned(),
        "\u{1f9ea}x".repeat(2_000),
        "x".repeat(10_240),
    ];
    let identifier = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (hostile, column) = (identifier(names[0]), identifier("<b onclick=hacked=1>"));
    let mut create = format!("CREATE TABLE {hostile} ({column} int PRIMARY KEY, {hostile} text);");
    for name in &names[1..] {
        create += &format!("CREATE TABLE {} (id text PRIMARY KEY, n numeric);", identifier(name));
    }
    let mut schema = json!({});
    schema[names[0]] = json!({
        "primaryKey": "<b onclick=hacked=1>",
        "columns": {"<b onclick=hacked=1>": "INTEGER", names[0]: "TEXT"}
    });
    for name in &names[1..] {
        schema[*name] = json!({"primaryKey": "id", "columns": {"id": "TEXT", "n": "INTEGER"}});
    }
    let (mut pipeline, api) = started("", &create, &schema);
    for (index, value) in values.iter().enumerate() {
        let literal = format!("'{}'", value.replace('\'', "''"));
        pipeline.exec(&format!("INSERT INTO {hostile} VALUES ({index}, {literal})"));
        // It has no form in the regions.
        pipeline.exec(&format!("INSERT INTO {} VALUES ({literal}, 1.5)", identifier(names[1])));
    }
    pipeline.catch_up();
    // A region that says it too: what fails, fails with this text until the trigger is gone.
    let sa = rusqlite::Connection::open(pipeline.replica("sa").path).unwrap();
    sa.busy_timeout(pipeline::LIMIT).unwrap();
    let message = values[0].replace('\'', "''");
    sa.execute_batch(&format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON _walcast_checkpoint BEGIN SELECT raise(FAIL, '{message}'); END"
    ))
    .unwrap();
    pipeline.exec(&format!("INSERT INTO {hostile} VALUES (99, 'more')"));
    pipeline.eventually("the failure to be logged", || {
        api.get("/logs?sink=sa").body.contains("onerror").then_some(())
    });
    sa.execute_batch("DROP TRIGGER refuse").unwrap();
    page::run(&mut pipeline, &api, SECRET, "hostile.js", &[&json!([names, values]).to_string()]);
}

#[test]
fn with_protect_reads_the_page_shows_nothing_until_it_has_the_secret() {
    let (mut pipeline, api) = started("protect_reads = true", CREATE, &schema());
    page::run(&mut pipeline, &api, SECRET, "protected.js", &[]);
}

#[test]
fn a_region_on_d1_shows_what_it_costs() {
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n"))
        .sink("eu", "")
        .d1("weur", "")
        .build(
            "CREATE TABLE apps (id int PRIMARY KEY)",
            &json!({"apps": {"primaryKey": "id", "columns": {"id": "INTEGER"}}}),
        );
    pipeline.start();
    pipeline.await_log("streaming");
    pipeline.exec("INSERT INTO apps SELECT i FROM generate_series(1, 10) i");
    pipeline.catch_up();
    let api = Api::of(&pipeline);
    page::run(&mut pipeline, &api, SECRET, "costs.js", &[]);
}

/// With WALCAST_PICTURES=directory it also leaves pictures of the page there.
#[test]
fn everybody_can_use_the_page_in_light_and_dark_on_a_desk_and_on_a_phone() {
    let (mut pipeline, api) = started("", CREATE, &schema());
    pipeline.exec("INSERT INTO apps SELECT i, 'app ' || i, i FROM generate_series(1, 400) i");
    pipeline.catch_up();
    let pictures = std::env::var("WALCAST_PICTURES").ok();
    page::run(
        &mut pipeline,
        &api,
        SECRET,
        "views.js",
        &pictures.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}
