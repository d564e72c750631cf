//! A session at the source.

#![allow(dead_code, reason = "every benchmark uses its own part")]

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A session, with a thread of its own, so that the connection is served while nobody waits for it.
pub struct Source {
    client: Client,
    runtime: Runtime,
}

impl Source {
    pub fn connect(url: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).expect("a session");
        runtime.spawn(connection);
        Source { client, runtime }
    }

    /// Runs statements without a result.
    pub fn execute(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).expect("the statement works");
    }

    /// Runs one statement; how many rows it touched.
    pub fn write(&self, sql: &str) -> u64 {
        self.runtime.block_on(self.client.execute(sql, &[])).expect("it is written")
    }

    /// The first column of a query's rows, as text.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let messages = self.runtime.block_on(self.client.simple_query(sql)).expect("the query works");
        let first = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        messages.iter().filter_map(first).collect()
    }
}
