//! The comparison against a real Postgres and replicas that the engine filled: it finds nothing where nothing is wrong,
//! and whatever is changed behind the engine's back.

use rusqlite::Connection;

use super::*;
use crate::app::demo::changes::Generator;
use crate::app::demo::stage::Stage;
use crate::app::demo::{extremes, session, store};
use crate::app::engine::{Engine, RunOptions};
use crate::app::source::read_schema;
use crate::config::{Config, Environment};

/// Runs the engine until the replicas have what the source has.
fn catch_up(stage: &Stage) {
    let config = Config::load(Some(&stage.path().join("walcast.toml")), &Environment::default()).unwrap();
    let options = RunOptions { until_caught_up: true, ..RunOptions::default() };
    let (_asked, shutdown) = tokio::sync::watch::channel(false);
    let run =
        async { Engine::prepare(&config, &read_schema(&config.schema)?, options).await?.run(shutdown).await };
    session::runtime().unwrap().block_on(run).unwrap();
}

/// A source with every extreme value and some ordinary transactions, and one region that has them.
fn filled() -> (Stage, Session) {
    let stage = Stage::set(1, false).unwrap();
    catch_up(&stage);
    let source = Session::connect(&stage.url()).unwrap();
    source.execute(&extremes::insert()).unwrap();
    let mut generator = Generator::new(1);
    for _ in 0..200 {
        source.execute(&generator.transaction()).unwrap();
    }
    catch_up(&stage);
    (stage, source)
}

#[test]
fn equal_replicas_have_no_difference_and_every_tampering_is_found() {
    let (stage, source) = filled();
    let clean = compare(&source, &store::TABLES, &stage.replicas()).unwrap().remove(0);
    assert_eq!((clean.differences, clean.described), (0, Vec::new()));
    assert!(clean.rows > 100, "{} rows", clean.rows);

    let cases = [
        ("UPDATE apps SET name = 'changed' WHERE id = 111", "apps (id=111): name is changed, should be "),
        (
            "UPDATE apps SET name = name || ' ' WHERE id = 9223372036854775807",
            "apps (id=9223372036854775807): name",
        ),
        ("UPDATE apps SET price = '3.0' WHERE id = 108", "): price is 3.0, should be 3.000"),
        ("UPDATE apps SET released = released + 1 WHERE id = 110", "apps (id=110): released is "),
        ("UPDATE apps SET updated = NULL WHERE id = 110", "apps (id=110): updated is NULL, should be "),
        (
            "UPDATE apps SET rating = 9.5 WHERE id = 108",
            "apps (id=108): rating is 4023000000000000, should be NULL",
        ),
        ("UPDATE apps SET is_active = 0 WHERE id = 110", "apps (id=110): is_active is 0, should be 1"),
        (
            "UPDATE apps SET metadata = '{\"a\": 1}' WHERE id = 110",
            "apps (id=110): metadata is {\"a\": 1}, should be ",
        ),
        ("UPDATE apps SET icon = x'01' WHERE id = 110", "apps (id=110): icon is 01, should be "),
        (
            "UPDATE apps SET description = substr(description, 2) WHERE id = 9007199254740992",
            "description is a text of 1048575 bytes, should be a text of 1048576 bytes",
        ),
        ("DELETE FROM apps WHERE id = -9223372036854775808", "apps (id=-9223372036854775808) is missing"),
        ("DELETE FROM apps WHERE id = (SELECT max(id) FROM apps)", ") is missing"),
        ("INSERT INTO apps (id, name) VALUES (-5, '')", "apps (id=-5) is in the replica only"),
        (
            "INSERT INTO versions (app_id, version) VALUES (9223372036854775807, 'z')",
            "version=z) is in the replica only",
        ),
        (
            "INSERT INTO channels (id) VALUES ('00000000-0000-0000-0000-000000000000')",
            " is in the replica only",
        ),
        (
            "UPDATE devices SET app_ids = '[1]' WHERE id = (SELECT min(id) FROM devices)",
            ": app_ids is [1], should be [",
        ),
    ];
    for (tampering, expected) in cases {
        let tampered = stage.path().join("tampered.db");
        std::fs::copy(stage.path().join("na.db"), &tampered).unwrap();
        assert_eq!(Connection::open(&tampered).unwrap().execute(tampering, []).unwrap(), 1, "{tampering}");
        let found = compare(&source, &store::TABLES, &[Address::File(tampered)]).unwrap().remove(0);
        assert_eq!((found.differences, found.rows), (1, clean.rows), "{tampering}: {:?}", found.described);
        assert!(found.described[0].contains(expected), "{tampering}: {:?}", found.described);
    }
}

#[test]
fn many_differences_are_all_counted_and_a_few_described() {
    let (stage, source) = filled();
    Connection::open(stage.path().join("na.db")).unwrap().execute("DELETE FROM ledger", []).unwrap();
    source
        .execute("INSERT INTO ledger (writer, changes) SELECT 'w', 1 FROM generate_series(1, 2500)")
        .unwrap();
    let found = compare(&source, &store::TABLES, &stage.replicas()).unwrap().remove(0);
    assert_eq!((found.differences, found.described.len()), (2500, DESCRIBED_MAX));
}
