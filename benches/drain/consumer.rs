//! Who drains: `pg_recvlogical`, which only receives, and walcast into nothing, one region and six; for D1, clients
//! that have what they send ready.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use walcast::error::{Error, Result};

use crate::d1::{Databases, Ready, Way};
use crate::measure::{self, Sample};
use crate::server::Server;
use crate::stage::Stream;
use crate::workload::Backlog;

/// Rounds of one process; each starts with a copy of the slot.
const SLOT: &str = "bench_copy";

/// A consumer and how it reaches the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    Recvlogical(Transport),
    Null(Transport),
    /// SQLite regions, over TCP.
    Sqlite(usize),
    /// A client with ready row sets, into so many D1 databases.
    RowSets(Way, usize),
    /// A client with a statement for each row, into one, through the REST API.
    RowStatements,
    /// walcast's D1 sinks without the rest of it.
    Stage(Way, usize),
    /// D1 databases, over TCP.
    D1(Way, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Unix,
    Tcp,
}

impl Transport {
    fn url(self, server: &Server) -> String {
        match self {
            Transport::Unix => server.cluster.url(),
            Transport::Tcp => server.cluster.tcp_url(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Transport::Unix => "unix socket",
            Transport::Tcp => "TCP",
        }
    }
}

impl Consumer {
    pub const ALL: [Consumer; 6] = [
        Consumer::Recvlogical(Transport::Unix),
        Consumer::Null(Transport::Unix),
        Consumer::Recvlogical(Transport::Tcp),
        Consumer::Null(Transport::Tcp),
        Consumer::Sqlite(1),
        Consumer::Sqlite(6),
    ];

    /// Into D1.
    pub const INTO_D1: [Consumer; 13] = [
        Consumer::RowSets(Way::Rest, 1),
        Consumer::RowStatements,
        Consumer::Stage(Way::Rest, 1),
        Consumer::D1(Way::Rest, 1),
        Consumer::RowSets(Way::Worker, 1),
        Consumer::Stage(Way::Worker, 1),
        Consumer::D1(Way::Worker, 1),
        Consumer::RowSets(Way::Rest, 6),
        Consumer::Stage(Way::Rest, 6),
        Consumer::D1(Way::Rest, 6),
        Consumer::RowSets(Way::Worker, 6),
        Consumer::Stage(Way::Worker, 6),
        Consumer::D1(Way::Worker, 6),
    ];

    pub fn name(self) -> String {
        match self {
            Consumer::Recvlogical(transport) => format!("pg_recvlogical, {}", transport.name()),
            Consumer::Null(transport) => format!("walcast → null, {}", transport.name()),
            Consumer::Sqlite(1) => "walcast → 1 SQLite region, TCP".to_owned(),
            Consumer::Sqlite(regions) => format!("walcast → {regions} SQLite regions, TCP"),
            Consumer::RowSets(way, databases) => format!("ready row sets → {databases} D1, {}", way.name()),
            Consumer::RowStatements => "ready statements, one a row → 1 D1, REST".to_owned(),
            Consumer::Stage(way, databases) => {
                format!("walcast's sinks alone → {databases} D1, {}", way.name())
            }
            Consumer::D1(way, databases) => format!("walcast → {databases} D1, {}", way.name()),
        }
    }

    pub fn is_among(self, names: &[String]) -> bool {
        names.is_empty() || names.iter().any(|name| self.name().contains(name.as_str()))
    }

    /// What it is compared with: the reference over the same transport.
    pub fn reference(self) -> Consumer {
        match self {
            Consumer::Recvlogical(transport) | Consumer::Null(transport) => Consumer::Recvlogical(transport),
            Consumer::Sqlite(_) => Consumer::Recvlogical(Transport::Tcp),
            Consumer::RowSets(way, databases)
            | Consumer::Stage(way, databases)
            | Consumer::D1(way, databases) => Consumer::RowSets(way, databases),
            Consumer::RowStatements => Consumer::RowSets(Way::Rest, 1),
        }
    }

    /// Whether it fills one D1 database.
    pub fn is_one_database(self) -> bool {
        matches!(
            self,
            Consumer::RowStatements | Consumer::RowSets(_, 1) | Consumer::Stage(_, 1) | Consumer::D1(_, 1)
        )
    }

    /// Whether it reads over TCP.
    pub fn is_over_tcp(self) -> bool {
        !matches!(self, Consumer::Recvlogical(Transport::Unix) | Consumer::Null(Transport::Unix))
    }

    /// Drains a copy of the backlog's slot, or sends what the backlog came to.
    pub fn drain(self, server: &Server, backlog: &Backlog) -> Result<Sample> {
        match self {
            Consumer::RowSets(way, databases) => {
                let (ready, databases) =
                    (Ready::row_sets(server, backlog)?, Databases::start(way, databases)?);
                let sample = databases.drain(&ready)?;
                databases.verify(backlog).map(|()| sample)
            }
            Consumer::RowStatements => {
                let (ready, database) =
                    (Ready::row_statements(server, backlog)?, Databases::start(Way::Rest, 1)?);
                database.allow_many_statements()?;
                let sample = database.drain(&ready)?;
                database.verify(backlog).map(|()| sample)
            }
            _ => self.drain_slot(server, backlog),
        }
    }

    fn drain_slot(self, server: &Server, backlog: &Backlog) -> Result<Sample> {
        server.text(&format!("SELECT pg_copy_logical_replication_slot('{}', '{SLOT}')", backlog.slot))?;
        let sample = match self {
            Consumer::Recvlogical(transport) => {
                measure::run(recvlogical(server, transport, backlog), SLOT, server)?
            }
            Consumer::Null(transport) => {
                let home = Home::new(&transport.url(server), SLOT, backlog, NULL_SINK)?;
                measure::run(home.walcast(&["--until-caught-up"]), SLOT, server)?
            }
            Consumer::Sqlite(regions) => {
                let home = Home::new(&Transport::Tcp.url(server), SLOT, backlog, &sqlite_sinks(regions))?;
                let sample = measure::run(home.walcast(&["--until-caught-up"]), SLOT, server)?;
                (0..regions).try_for_each(|region| verify(&home.region(region), backlog))?;
                sample
            }
            Consumer::Stage(way, databases) => {
                let (stream, databases) =
                    (Stream::read(server, backlog, SLOT)?, Databases::start(way, databases)?);
                let sample = stream.drain(databases.transports()?)?;
                databases.verify(backlog)?;
                sample
            }
            Consumer::D1(way, databases) => {
                let databases = Databases::start(way, databases)?;
                let home = Home::new(&Transport::Tcp.url(server), SLOT, backlog, &databases.sinks())?;
                let sample = measure::run(home.walcast(&["--until-caught-up"]), SLOT, server)?;
                databases.verify(backlog)?;
                sample
            }
            Consumer::RowSets(..) | Consumer::RowStatements => {
                return Err(Error::bug("a client without a slot"));
            }
        };
        // The server may need a moment to see that the consumer is gone.
        while server
            .text(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'"))?
            .as_deref()
            == Some("t")
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        server.text(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))?;
        Ok(sample)
    }
}

fn recvlogical(server: &Server, transport: Transport, backlog: &Backlog) -> Command {
    let mut command = Command::new(server.cluster.program("pg_recvlogical"));
    command.arg("--dbname").arg(transport.url(server)).args(["--slot", SLOT, "--start", "--no-loop"]);
    command.args(["-o", "proto_version=1", "-o", &format!("publication_names={}", backlog.publication)]);
    command.args(["--endpos", &backlog.end_lsn, "--file", "/dev/null"]);
    command
}

/// A region has everything?
fn verify(path: &Path, backlog: &Backlog) -> Result<()> {
    let (table, expected) = backlog.expected;
    let counted: rusqlite::Result<i64> = rusqlite::Connection::open(path)
        .and_then(|region| region.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)));
    match counted {
        Ok(counted) if counted == expected as i64 => Ok(()),
        Ok(counted) => Err(Error::bug(format!("{} has {counted} of {expected} rows", path.display()))),
        Err(error) => Err(Error::halt(format!("reading {}", path.display())).because(error)),
    }
}

const NULL_SINK: &str = "[[sink]]\nname = \"null\"\ntype = \"null\"\n";

/// The `[[sink]]` sections of so many SQLite regions.
pub fn sqlite_sinks(regions: usize) -> String {
    let sink =
        |region| format!("[[sink]]\nname = \"r{region}\"\ntype = \"sqlite\"\npath = \"r{region}.db\"\n");
    (0..regions).map(sink).collect()
}

/// A directory with walcast's configuration, on a real disk, where the regions go too.
pub struct Home(TempDir);

impl Home {
    /// A configuration with these `[[sink]]` sections.
    pub fn new(url: &str, slot: &str, backlog: &Backlog, sinks: &str) -> Result<Home> {
        let publication = &backlog.publication;
        let source = format!("[source]\nurl = {url:?}\nslot = {slot:?}\npublication = {publication:?}\n");
        // What is drained is in the stream, and would be read a second time.
        let once = "[backfill]\nmode = \"never\"\n";
        let toml = format!("{source}{once}[d1]\nrequests_per_5_minutes = 100000\n{sinks}");
        let write = || -> std::io::Result<Home> {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
            std::fs::write(directory.path().join("walcast.toml"), toml)?;
            std::fs::write(directory.path().join("schema.json"), backlog.schema.to_string())?;
            Ok(Home(directory))
        };
        write().map_err(|error| Error::halt("writing walcast's configuration").because(error))
    }

    pub fn region(&self, region: usize) -> PathBuf {
        self.0.path().join(format!("r{region}.db"))
    }

    /// `walcast run` with this configuration and nothing from the environment.
    pub fn walcast(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
        command.arg("run").args(arguments).current_dir(self.0.path()).env_clear();
        command
    }
}
