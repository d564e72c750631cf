//! Regions that are away when they come or go, and databases that are deleted under a running engine: the others go on,
//! and whoever comes is filled.

#[path = "support/filling.rs"]
mod filling;
#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::fs;

use filling::{ROWS, SMALL, TABLES, assert_equal, schema, under_load};
use http::Api;
use pipeline::{Builder, Pipeline};
use serde_json::json;

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
/// As many requests to D1 as it takes.
const UNLIMITED: &str = "[d1]\nrequests_per_5_minutes = 1000000\n";

/// A pipeline with an API. `sections` end its configuration.
fn builder(sections: &str) -> Builder {
    Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{sections}"))
}

fn start(pipeline: &mut Pipeline, sinks: &[&str]) -> Api {
    pipeline.start();
    sinks.iter().for_each(|sink| pipeline.filled(sink));
    pipeline.await_log("streaming");
    Api::of(pipeline)
}

/// Reloads, and returns what became of it.
fn reloaded(api: &Api) -> String {
    let answer = api.post_with(SECRET, "/reload?wait=true&timeout=60s");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["outcome"].as_str().unwrap().to_owned()
}

fn all_right(pipeline: &Pipeline, api: &Api) {
    pipeline.eventually("every region to be right", || (api.get("/readyz").status == 200).then_some(()));
}

/// Waits until the only problem is a sink's.
fn is_named(pipeline: &Pipeline, api: &Api, sink: &str) {
    pipeline.eventually(&format!("sink {sink} to be the problem"), || {
        let answer = api.get("/readyz");
        let body = answer.json();
        let subjects = body["problems"].as_array().unwrap().iter().map(|problem| &problem["subject"]);
        let is_its = subjects.clone().count() > 0
            && subjects.clone().all(|subject| *subject == format!("sink {sink}"));
        (answer.status == 503 && is_its).then_some(())
    });
}

fn await_one_slot(pipeline: &Pipeline) {
    pipeline.eventually("only the main slot to be left", || {
        let slots = pipeline.exec("SELECT slot_name FROM pg_replication_slots");
        (slots == ["walcast"]).then_some(())
    });
}

/// `walcast.toml` with and without its last sink.
fn configs(pipeline: &Pipeline) -> [String; 2] {
    let with = fs::read_to_string(pipeline.path("walcast.toml")).unwrap();
    let without = with[..with.rfind("[[sink]]").unwrap()].to_owned();
    [with, without]
}

#[test]
fn a_file_that_is_deleted_or_replaced_under_a_running_engine_is_filled_anew_and_the_others_notice_nothing() {
    let mut pipeline = builder(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    let api = start(&mut pipeline, &["eu", "na"]);
    let (fills, epoch) = (pipeline.replica("eu").fills(), pipeline.replica("eu").checkpoint().unwrap().epoch);
    let path = |name: &str| pipeline.path(name);
    let [file, wal, shm, old] = ["na.db", "na.db-wal", "na.db-shm", "old.db"].map(path);
    let backup = rusqlite::Connection::open(&file).unwrap();
    backup.execute("VACUUM INTO ?1", [old.to_str().unwrap()]).unwrap();
    drop(backup);
    for (says, begins) in [
        ("the file is gone", "new replica: it begins here and is filled"),
        ("another file stands in its place", "the slot is ahead of the replica: it is filled anew"),
    ] {
        under_load(&mut pipeline, |pipeline| {
            let _ = [&wal, &shm].map(fs::remove_file);
            match says {
                "the file is gone" => fs::remove_file(&file).unwrap(),
                _ => fs::rename(&old, &file).unwrap(),
            }
            pipeline.await_log(says);
            pipeline.await_log(begins);
            pipeline.filled("na");
            all_right(pipeline, &api);
        });
        pipeline.catch_up();
        assert_equal(&pipeline);
        await_one_slot(&pipeline);
    }
    assert_eq!(pipeline.replica("eu").fills(), fills, "it was not filled again");
    assert_eq!(pipeline.replica("eu").checkpoint().unwrap().epoch, epoch, "nor opened again");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn the_only_file_that_is_deleted_under_a_running_engine_ends_nothing() {
    let mut pipeline = builder(SMALL).sink("eu", "").build(&format!("{TABLES}{ROWS}"), &schema());
    let api = start(&mut pipeline, &["eu"]);
    under_load(&mut pipeline, |pipeline| {
        let _ = ["eu.db", "eu.db-wal", "eu.db-shm"].map(|name| fs::remove_file(pipeline.path(name)));
        pipeline.await_log("the file is gone");
        pipeline.filled("eu");
        all_right(pipeline, &api);
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_that_cannot_be_reached_when_it_comes_is_filled_once_it_answers() {
    let mut pipeline =
        builder(UNLIMITED).sink("eu", "").d1("na", "").build(&format!("{TABLES}{ROWS}"), &schema());
    let [with, without] = configs(&pipeline);
    fs::write(pipeline.path("walcast.toml"), without).unwrap();
    let api = start(&mut pipeline, &["eu"]);
    let before = pipeline.replica("eu").checkpoint().unwrap().epoch;
    under_load(&mut pipeline, |pipeline| {
        pipeline.order("na", json!({"kind": "internal-error", "times": "until cleared"}));
        fs::write(pipeline.path("walcast.toml"), &with).unwrap();
        assert_eq!(reloaded(&api), "sinks: na comes");
        is_named(pipeline, &api, "na");
        pipeline.catch_up_one("eu");
        assert_eq!(api.get("/livez").status, 200);
        assert_eq!(pipeline.replica("na").checkpoint(), None);
        pipeline.workerd.as_ref().unwrap().clear_faults().unwrap();
        pipeline.filled("na");
        all_right(pipeline, &api);
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    await_one_slot(&pipeline);
    assert_eq!(pipeline.replica("eu").checkpoint().unwrap().epoch, before, "it was not opened again");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_that_is_taken_out_while_it_is_down_leaves_nothing_behind_and_comes_back_filled() {
    let mut pipeline = builder(UNLIMITED)
        .sections("[queue]\nmax_bytes = \"64KiB\"\n[transaction]\npart_max_bytes = \"4KiB\"\n")
        .sink("eu", "")
        .d1("na", "")
        .build(&format!("{TABLES}{ROWS}"), &schema());
    let [with, without] = configs(&pipeline);
    let api = start(&mut pipeline, &["eu", "na"]);
    pipeline.order("na", json!({"kind": "internal-error", "times": "until cleared"}));
    // Down for so long that a slot of its own holds what it lacks.
    pipeline.eventually("na's own slot", || {
        pipeline.exec("UPDATE pairs SET v = v + 1");
        pipeline.catch_up_one("eu");
        (pipeline.ask("SELECT count(*) FROM pg_replication_slots") == "2").then_some(())
    });
    is_named(&pipeline, &api, "na");
    fs::write(pipeline.path("walcast.toml"), without).unwrap();
    assert_eq!(reloaded(&api), "sinks: na goes");
    all_right(&pipeline, &api);
    await_one_slot(&pipeline);
    assert!(!api.get("/metrics").body.contains("sink=\"na\""));
    pipeline.exec("UPDATE pairs SET v = v + 1; DELETE FROM items WHERE id < 100");
    pipeline.catch_up_one("eu");
    let now = pipeline.wal_lsn();
    pipeline.eventually("the slot to be confirmed without it", || {
        (pipeline.confirmed_flush_lsn()? >= now).then_some(())
    });
    // It comes while it is still down, and the slot is past it.
    fs::write(pipeline.path("walcast.toml"), with).unwrap();
    assert_eq!(reloaded(&api), "sinks: na comes");
    is_named(&pipeline, &api, "na");
    pipeline.workerd.as_ref().unwrap().clear_faults().unwrap();
    pipeline.await_log("the slot is ahead of the replica: it is filled anew");
    all_right(&pipeline, &api);
    pipeline.catch_up();
    assert_equal(&pipeline);
    await_one_slot(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}
