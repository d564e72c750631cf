//! A blocking SQL session with the throwaway Postgres, for the demo's plain threads.

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Row, Statement};

use crate::error::{Error, Result};
use crate::postgres::conninfo::ConnectionInfo;
use crate::postgres::session::{self, from_sql};

/// What the demo calls itself in `pg_stat_activity`.
const APPLICATION_NAME: &str = "walcast demo";

/// What errors say was being done.
const DOING: &str = "the demo's own session";

/// One session and the runtime that drives it, on the thread that uses it.
pub(super) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    /// Connects. The `PG*` variables of the user's environment are about another server and not looked at.
    pub(super) fn connect(url: &str) -> Result<Self> {
        let runtime = runtime()?;
        let client = runtime.block_on(connect(url))?;
        Ok(Session { client, runtime })
    }

    /// Runs statements that return nothing.
    pub(super) fn execute(&self, sql: &str) -> Result<()> {
        let executed = self.runtime.block_on(self.client.batch_execute(sql));
        executed.map_err(|error| from_sql(error, DOING))
    }

    /// Runs one query without parameters.
    pub(super) fn query(&self, sql: &str) -> Result<Vec<Row>> {
        let rows = self.runtime.block_on(self.client.query(sql, &[]));
        rows.map_err(|error| from_sql(error, DOING))
    }

    /// Prepares a query and hands back what runs it.
    pub(super) fn prepare(&self, sql: &str) -> Result<Statement> {
        let statement = self.runtime.block_on(self.client.prepare(sql));
        statement.map_err(|error| from_sql(error, DOING))
    }

    /// Runs a prepared query without parameters.
    pub(super) fn run(&self, statement: &Statement) -> Result<Vec<Row>> {
        let rows = self.runtime.block_on(self.client.query(statement, &[]));
        rows.map_err(|error| from_sql(error, DOING))
    }
}

/// A session on the runtime that this is called in.
pub(super) async fn connect(url: &str) -> Result<Client> {
    session::connect(&ConnectionInfo::resolve_with(url, &|_| None)?, APPLICATION_NAME).await
}

/// A runtime for one thread.
pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::halt("starting a runtime").because(error))
}
