//! The source as the engine and the commands meet it: connected, surveyed and held against the sinks.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use tokio_postgres::Client;

use crate::Lsn;
use crate::capture::catalog::{self, OLDEST_VERSION, Server};
use crate::capture::publication::PublishedTable;
use crate::capture::slot::{self, Judgement, SinkCheckpoint, Slot, SourceIdentity, TimelineHistory};
use crate::capture::table::{Table, TableName};
use crate::config;
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};
use crate::fanout::sink::Checkpoint;
use crate::postgres::conninfo::ConnectionInfo;
use crate::postgres::session;
use crate::postgres::wire::ReplicationSession;

/// What walcast calls itself in `pg_stat_activity`.
const APPLICATION_NAME: &str = "walcast";

/// The configured source.
#[derive(Debug, Clone)]
pub struct Source {
    /// How it is reached.
    pub info: ConnectionInfo,
    /// What is read from it.
    pub config: config::Source,
}

impl Source {
    /// Reads the connection's parameters; connects to nothing.
    ///
    /// # Errors
    /// A configuration error for a URL that libpq would not accept either.
    pub fn new(config: &config::Source) -> Result<Self> {
        let url = config.url.as_ref().map_or("", |url| url.expose_secret());
        Ok(Source { info: ConnectionInfo::resolve(url)?, config: config.clone() })
    }

    /// An SQL session.
    pub async fn connect(&self) -> Result<Client> {
        session::connect(&self.info, APPLICATION_NAME).await
    }

    /// Where rows are read for a fill: the standby if one is named.
    ///
    /// # Errors
    /// A configuration error for a URL that libpq would not accept either.
    pub fn backfill_info(&self) -> Result<ConnectionInfo> {
        match &self.config.backfill_url {
            Some(url) => ConnectionInfo::resolve(url.expose_secret()),
            None => Ok(self.info.clone()),
        }
    }

    /// A replication session.
    pub async fn connect_replication(&self) -> Result<ReplicationSession> {
        ReplicationSession::connect(&self.info, APPLICATION_NAME).await
    }

    /// Which source this is, for the sinks' checkpoints.
    pub fn identity(&self, server: &Server) -> SourceIdentity {
        SourceIdentity {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            slot: self.config.slot.clone(),
            database: server.database.clone(),
        }
    }

    /// The ancestors of the server's timeline; empty on the first one, where the server has no history file.
    pub async fn timeline_history(&self, timeline: u32) -> Result<TimelineHistory> {
        if timeline <= 1 {
            return Ok(TimelineHistory::default());
        }
        let mut replication = self.connect_replication().await?;
        let history = slot::read_history(&mut replication, timeline).await;
        replication.close().await;
        history
    }

    /// The slot and its copies. Read them before the sinks that an engine may be feeding: a sink is never behind what was
    /// confirmed before it was looked at, but soon behind what is confirmed afterwards.
    pub async fn slots(&self, client: &Client, server: &Server) -> Result<Slots> {
        // A copy is dropped only once its sink is where the slot is, so none that counts is missed in this order.
        let slot = slot::read(client, &self.config.slot).await?;
        let copies = slot::read_copies(client, &self.config.slot, &server.database).await?;
        Ok(Slots { slot, copies })
    }

    /// Holds the slots against the sinks' checkpoints, which were read after them.
    pub async fn judge(
        &self,
        client: &Client,
        server: &Server,
        Slots { slot, copies }: Slots,
        checkpoints: &[(String, Option<Checkpoint>)],
    ) -> Result<Judged> {
        let history = self.timeline_history(server.timeline).await?;
        let slot = match slot {
            // It may have been created with the first of the sinks.
            None => slot::read(client, &self.config.slot).await?,
            Some(_) => slot,
        };
        let current_wal_lsn = catalog::read_server(client).await?.current_wal_lsn;
        let sinks: Vec<SinkCheckpoint> = checkpoints
            .iter()
            .map(|(name, checkpoint)| {
                let copy = self.copy_of(name, &copies).cloned();
                sink_checkpoint(name, checkpoint.as_ref(), copy)
            })
            .collect();
        let identity = self.identity(server);
        let judgement = slot::judge(&identity, current_wal_lsn, &history, slot.as_ref(), &sinks);
        Ok(Judged { slot, copies, judgement, current_wal_lsn })
    }

    /// The sink's own among the copies of the slot.
    pub fn copy_of<'a>(&self, sink: &str, copies: &'a [Slot]) -> Option<&'a Slot> {
        let name = config::slot_copy(&self.config.slot, sink);
        copies.iter().find(|copy| copy.name == name)
    }

    /// The copies that belong to none of these sinks: whoever had them was taken out of the configuration.
    pub fn abandoned<'a>(&self, sinks: &[config::Sink], copies: &'a [Slot]) -> Vec<&'a Slot> {
        let names: Vec<String> =
            sinks.iter().map(|sink| config::slot_copy(&self.config.slot, sink.name.as_str())).collect();
        copies.iter().filter(|copy| !names.contains(&copy.name)).collect()
    }
}

/// The slot and its copies as [`Source::slots`] found them.
pub struct Slots {
    slot: Option<Slot>,
    copies: Vec<Slot>,
}

/// What [`Source::judge`] was given and read, and what it means.
pub struct Judged {
    /// The slot, if there is one.
    pub slot: Option<Slot>,
    /// All its copies.
    pub copies: Vec<Slot>,
    /// Whether slot and sinks fit.
    pub judgement: Judgement,
    /// The server's WAL position, read after everything else.
    pub current_wal_lsn: Lsn,
}

fn sink_checkpoint(name: &str, checkpoint: Option<&Checkpoint>, copy: Option<Slot>) -> SinkCheckpoint {
    SinkCheckpoint {
        sink: name.to_owned(),
        lsn: checkpoint.map(|checkpoint| checkpoint.lsn),
        system_identifier: checkpoint.map_or(0, |checkpoint| checkpoint.source.system_identifier),
        timeline: checkpoint.map_or(0, |checkpoint| checkpoint.source.timeline),
        slot: checkpoint.map_or_else(String::new, |checkpoint| checkpoint.source.slot.clone()),
        copy,
    }
}

/// What the source is and which of its tables `schema.json` names.
pub struct Survey {
    /// Version, settings and position.
    pub server: Server,
    /// The tables of `schema.json` that exist.
    pub tables: Vec<Table>,
    /// What is wrong with the others.
    pub errors: Vec<Error>,
}

impl Survey {
    /// Asks the server.
    ///
    /// # Errors
    /// As [`read_there`](Self::read_there); a table does not exist or cannot be replicated.
    pub async fn read(client: &Client, schema: &SchemaFile) -> Result<Survey> {
        let mut survey = Survey::read_there(client, schema).await?;
        if survey.errors.is_empty() { Ok(survey) } else { Err(survey.errors.remove(0)) }
    }

    /// Asks the server, and takes what is there.
    ///
    /// # Errors
    /// Halts on a server that is too old or does not write logical WAL.
    pub async fn read_there(client: &Client, schema: &SchemaFile) -> Result<Survey> {
        let server = catalog::read_server(client).await?;
        if server.version < OLDEST_VERSION {
            return Err(Error::halt(format!(
                "the source is Postgres {}; walcast needs 14 or newer",
                server.version.major()
            )));
        }
        if server.wal_level != "logical" {
            return Err(Error::halt(format!("wal_level is {}, not logical", server.wal_level))
                .hint("as a superuser: ALTER SYSTEM SET wal_level = logical; then restart the server"));
        }
        let names: Vec<TableName> = schema.tables.keys().cloned().collect();
        let (tables, errors) = catalog::read_tables_there(client, &names).await?;
        Ok(Survey { server, tables, errors })
    }

    /// What must be published for `schema`.
    pub fn published(&self, schema: &SchemaFile) -> Vec<PublishedTable> {
        let mapped: BTreeMap<&TableName, Vec<String>> = schema
            .tables
            .iter()
            .map(|(name, entry)| (name, entry.columns.keys().cloned().collect()))
            .collect();
        self.tables
            .iter()
            .filter_map(|table| {
                Some(PublishedTable::new(table, mapped.get(&table.name)?, self.server.version))
            })
            .collect()
    }
}

/// Reads and checks `schema.json`.
///
/// # Errors
/// A configuration error with every mistake at its place.
pub fn read_schema(path: &std::path::Path) -> Result<SchemaFile> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::config(format!("{} cannot be read", path.display()))
            .because(error)
            .hint("write one from the catalog with: walcast schema generate > schema.json")
    })?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    SchemaFile::parse(&name, &text)
}

/// The statement that starts the stream. The position is 0/0: the slot knows where it is, and anything else could
/// only skip.
/// `with_messages`: logical messages come too, also those of others, in whose stead their transactions would be empty.
pub fn start_replication(slot: &str, publication: &str, with_messages: bool) -> String {
    let publication = crate::postgres::quote_literal(&crate::postgres::quote_identifier(publication));
    let messages = if with_messages { ", messages 'true'" } else { "" };
    format!(
        "START_REPLICATION SLOT {slot} LOGICAL {} (proto_version '1', publication_names {publication}{messages})",
        Lsn::ZERO
    )
}
