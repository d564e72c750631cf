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

/// Six regions in step, and the API.
fn started(admin: &str, create: &str, schema: &Value) -> (Pipeline, Api) {
    let mut builder = Pipeline::builder().sections(&format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{admin}\n[log]\nsync_file = \"sync-log.db\"\n"
    ));
    for region in REGIONS {
        builder = builder.sink(region, "");
    }
    let mut pipeline = builder.build(create, schema);
    pipeline.start();
    pipeline.catch_up();
    pipeline.await_log("streaming");
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
