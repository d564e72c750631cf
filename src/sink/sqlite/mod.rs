//! A regional replica in one SQLite file.
//!
//! Applications read the file while walcast writes it (WAL mode). Rows, checkpoint and fencing token commit in one
//! transaction, with `synchronous = FULL`: what is acknowledged survives a power failure. A source transaction that
//! comes in parts keeps its SQLite transaction open across them, so readers never see half of it.
//!
//! An open file can be deleted, or another one put in its place, and SQLite goes on writing to what nobody can read any
//! more. So nothing is acknowledged before the path was seen to name the file still (`place`).
//!
//! `state` and `fills` own the `_walcast_*` tables, `tables` and `swap` the replicated ones, `writer` the statements. A
//! table whose definition changed is built beside the one that readers see, under another name; only what writes rows
//! knows of it.

mod fills;
mod place;
mod prune;
mod reading;
mod shapes;
mod state;
mod swap;
mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use prune::prune;
pub use reading::{dead_letters, drop_dead_letters, row};
pub use shapes::of_definition;
pub use state::{inspect, is_foreign, kept_tables, stored_tables};

use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{FillWrite, Fills, OwedKey, TableFill};
use crate::fanout::sink::{Applied, Batch, Checkpoint, Sink};
use crate::sink::alter::{self, written};
use crate::sink::definition::beside;
use crate::sink::replica::{OnRejected, awaits_operator, check_source, taken_over};
use place::Place;

/// How long a statement waits for another process that writes the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements that are kept; a table needs about four.
const STATEMENT_CACHE: usize = 512;
/// WAL pages (4 KiB) after which SQLite moves them into the main file. Larger than SQLite's default, because random
/// keys touch the same pages again and again.
const WAL_AUTOCHECKPOINT_PAGES: i64 = 8_000;
/// The page cache of one file, in KiB.
const CACHE_KIB: i64 = 4_096;

/// The SQLite sink.
pub struct SqliteSink {
    path: PathBuf,
    on_rejected: OnRejected,
    is_manual: bool,
    open: Option<Open>,
    /// What the last batch failed for.
    missing: Vec<(usize, OwedKey)>,
}

/// What exists once the file is open.
struct Open {
    connection: Connection,
    place: Place,
    plan: Arc<Plan>,
    /// The same with the names of the tables that rows are written to.
    written: Plan,
    /// Some of them were others than those when the file was opened.
    is_building: bool,
    source: SourceIdentity,
    epoch: u64,
    sql: writer::TableSql,
    /// A transaction whose end has not come yet is open in SQLite.
    is_in_transaction: bool,
}

impl SqliteSink {
    /// A sink on the file at `path`, which is created when it is missing.
    pub fn new(path: impl Into<PathBuf>, on_rejected: OnRejected) -> Self {
        SqliteSink { path: path.into(), on_rejected, is_manual: false, open: None, missing: Vec::new() }
    }

    /// Whether an operator wants to say when tables of a replica that is fed already are changed.
    pub fn with_manual_changes(self, is_manual: bool) -> Self {
        SqliteSink { is_manual, ..self }
    }

    fn opened(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or_else(|| Error::bug("SQLite sink used before it was opened"))
    }
}

impl Sink for SqliteSink {
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        let mut connection = connect(&self.path)?;
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|error| failure(error, format!("opening {}", self.path.display())))?;
        state::claim(&transaction, &self.path)?;
        let checkpoint = state::read(&transaction)?;
        let changes = tables::prepare(&transaction, plan, &self.path)?;
        if self.is_manual && checkpoint.is_some() && !changes.is_empty() {
            return Err(awaits_operator(&self.path.display(), &changes));
        }
        let checkpoint = match checkpoint {
            Some(mut checkpoint) => {
                check_source(&checkpoint, source, &self.path.display())?;
                checkpoint.epoch += 1;
                state::take_over(&transaction, checkpoint.epoch)?;
                Some(checkpoint)
            }
            None => None,
        };
        let written = written(plan, &fills::read(&transaction, plan)?);
        transaction.commit().map_err(|error| failure(error, format!("preparing {}", self.path.display())))?;
        for change in changes.iter().filter(|_| checkpoint.is_some()) {
            tracing::info!(replica = %self.path.display(), "{change}");
        }
        self.open = Some(Open {
            sql: writer::TableSql::new(&written),
            is_building: written
                .tables
                .iter()
                .zip(&plan.tables)
                .any(|(one, other)| one.target != other.target),
            written,
            plan: plan.clone(),
            source: source.clone(),
            epoch: checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.epoch),
            connection,
            place: Place::of(&self.path)?,
            is_in_transaction: false,
        });
        Ok(checkpoint)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        let open = self.opened()?;
        state::insert(&open.connection, lsn, &open.source, open.epoch)
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        let open = self.opened()?;
        let preparing = |error| failure(error, "preparing to fill it anew".to_owned());
        let transaction = open.connection.unchecked_transaction().map_err(preparing)?;
        state::restart(&transaction, lsn, &open.source, open.epoch)?;
        for (table, written) in open.plan.tables.iter().zip(&open.written.tables) {
            let is_beside = written.target != table.target;
            let fill = TableFill { clears: true, is_beside, ..TableFill::of(table) };
            fills::put(&transaction, &table.target, &fill)?;
        }
        transaction.commit().map_err(preparing)
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let on_rejected = self.on_rejected;
        let open = self.opened()?;
        let mut writer = writer::Writer::new(open, on_rejected);
        let applied = writer.apply(batch);
        let missing = std::mem::take(&mut writer.missing);
        drop(writer);
        let applied =
            open.place.check().and(applied).map_err(|error| error.context(open.place.path().display()));
        self.missing = missing;
        applied
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        let on_rejected = self.on_rejected;
        let open = self.opened()?;
        let filled = open.fill(write, on_rejected);
        open.place.check().and(filled).map_err(|error| error.context(open.place.path().display()))
    }

    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        std::mem::take(&mut self.missing)
    }

    fn fills(&mut self) -> Result<Fills> {
        let open = self.opened()?;
        fills::read(&open.connection, &open.plan)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let path = self.path.clone();
        let open = self.opened()?;
        if !open.connection.is_autocommit() {
            execute(&open.connection, "ROLLBACK")?;
        }
        open.is_in_transaction = false;
        let checkpoint = state::read(&open.connection)?.ok_or_else(|| {
            Error::new(Kind::NeedsBackfill, format!("{} lost its checkpoint", path.display()))
                .hint("walcast status shows slot and checkpoints")
        })?;
        if checkpoint.epoch != open.epoch {
            return Err(taken_over());
        }
        if open.is_building {
            // Whether a swap that failed has come about, only the file knows.
            let fills = fills::read(&open.connection, &open.plan)?;
            open.write_to(written(&open.plan, &fills));
        }
        Ok(checkpoint)
    }
}

impl Open {
    fn fill(&mut self, write: &FillWrite<'_>, on_rejected: OnRejected) -> Result<Applied> {
        if write.swaps {
            swap::swap(self, write)?;
            let table = &self.plan.tables[write.table].target;
            tracing::info!(replica = %self.place.path().display(), table, "the table that was built beside takes its place");
            return Ok(Applied::default());
        }
        if write.clears && write.fill.is_beside && !self.is_beside(write.table) {
            return self.build_beside(write);
        }
        writer::Writer::new(self, on_rejected).fill(write)
    }

    /// Whether another table than the one that readers see is written to.
    fn is_beside(&self, table: usize) -> bool {
        self.written.tables[table].target != self.plan.tables[table].target
    }

    /// Makes a table beside the one that readers see, which stays as it is.
    fn build_beside(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        let target = self.plan.tables[write.table].target.clone();
        let beginning = |error| failure(error, format!("building table {target} anew"));
        let is_alone = !self.is_in_transaction;
        if is_alone {
            execute(&self.connection, "BEGIN IMMEDIATE")?;
        }
        state::check_epoch(&self.connection, self.epoch)?;
        let statements = alter::build_beside(&self.plan.tables[write.table]);
        tables::run(&self.connection, &statements).map_err(beginning)?;
        fills::put(&self.connection, &target, write.fill)?;
        if is_alone {
            execute(&self.connection, "COMMIT")?;
        }
        let mut written = self.written.clone();
        written.tables[write.table] = beside(&self.plan.tables[write.table]);
        self.is_building = true;
        self.write_to(written);
        Ok(Applied::default())
    }

    /// From now on rows are written to these tables.
    fn write_to(&mut self, written: Plan) {
        self.sql = writer::TableSql::new(&written);
        self.written = written;
    }
}

fn connect(path: &Path) -> Result<Connection> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|error| {
            Error::halt(format!("cannot create directory {}", directory.display())).because(error)
        })?;
    }
    let setup = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW,
        )?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Reads the header: a file that is no database is refused before anything is written.
        connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
        Ok(connection)
    };
    let connection = setup().map_err(|error| unreadable(error, path))?;
    state::refuse_foreign(&connection, path)?;
    let pragmas = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT_PAGES)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "foreign_keys", false)?;
        connection.pragma_update(None, "recursive_triggers", false)?;
        // A table takes another's place while views name that one; what they name is theirs.
        connection.pragma_update(None, "legacy_alter_table", true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        Ok(())
    };
    pragmas().map_err(|error| failure(error, format!("preparing {}", path.display())))?;
    Ok(connection)
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .map_err(|error| failure(error, sql.to_owned()))?;
    Ok(())
}

/// An error of the first look into a file.
fn unreadable(error: rusqlite::Error, path: &Path) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            Error::halt(format!("{} is not a SQLite database and will not be overwritten", path.display()))
                .hint("give the sink another path in walcast.toml")
                .because(error)
        }
        Some(_) | None => failure(error, format!("opening {}", path.display())),
    }
}

/// A SQLite error as one of ours (<https://www.sqlite.org/rescode.html>).
fn failure(error: rusqlite::Error, doing: String) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
            | ErrorCode::SchemaChanged,
        ) => Kind::Transient,
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => Kind::Rejected,
        Some(_) | None => Kind::Halt,
    };
    Error::new(kind, doing).because(error)
}
