//! An SQL session at the source that takes statements as text and gives rows as text.

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// An SQL session of its own, for a thread of its own.
pub struct Session {
    pub(super) client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    pub fn connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Session { client, runtime })
    }

    /// Runs statements and returns the last one's rows.
    pub fn exec(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let mut rows = Vec::new();
        for message in &messages {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    let values: Vec<&str> =
                        (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
                    rows.push(values.join("|"));
                }
                _ => {}
            }
        }
        Ok(rows)
    }
}
