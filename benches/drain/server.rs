//! The source: a throwaway cluster, and a session on it.

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use walcast::app::demo::Cluster;
use walcast::error::{Error, Result};

/// The server with one SQL session. Not durable: what is measured is how it is read.
pub struct Server {
    client: Client,
    runtime: Runtime,
    pub cluster: Cluster,
}

impl Server {
    pub fn start() -> Result<Self> {
        let cluster = Cluster::builder()
            .setting("shared_buffers", "256MB")
            .setting("max_wal_size", "8GB")
            // Nothing of its own accord while consumers are compared.
            .setting("checkpoint_timeout", "1h")
            .setting("autovacuum", "off")
            .start()?;
        let failed = |error| Error::halt("starting the benchmark's runtime").because(error);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
        let (client, connection) =
            runtime.block_on(tokio_postgres::connect(&cluster.url(), NoTls)).map_err(sql)?;
        runtime.spawn(connection);
        Ok(Server { client, runtime, cluster })
    }

    /// Runs statements without a result.
    pub fn execute(&self, statements: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(statements)).map_err(sql)
    }

    /// The first column of the first row, as text.
    pub fn text(&self, query: &str) -> Result<Option<String>> {
        let messages = self.runtime.block_on(self.client.simple_query(query)).map_err(sql)?;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Drives what reads the server in another way than by SQL.
    pub fn block_on<T>(&self, reading: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(reading)
    }

    pub fn version(&self) -> Result<String> {
        Ok(self.text("SHOW server_version")?.unwrap_or_default())
    }
}

fn sql(error: tokio_postgres::Error) -> Error {
    Error::halt("the benchmark's SQL failed").because(error)
}
