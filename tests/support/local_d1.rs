//! SQLite in memory in the place of a D1 database: a call is one transaction, and calls can be made to fail as D1's do.
//! For properties and simulations, where the real part would be too slow.

#![allow(dead_code, reason = "every test file uses its own part")]

#[path = "statements.rs"]
mod statements;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params_from_iter};
use serde_json::{Map, Value};
use statements::statements;
use walcast::sink::d1::body::Bulk;
use walcast::sink::d1::limits;
use walcast::sink::d1::transport::{Answer, Failure, Statement, Transport};
use walcast::sink::d1::verdict::Verdict;

/// A database that outlives the sinks that write it.
#[derive(Clone)]
pub struct LocalD1(Arc<Mutex<Inner>>);

struct Inner {
    connection: Connection,
    faults: Faults,
    rng: fastrand::Rng,
    seen: Seen,
    /// What was sent since it was last taken.
    sent: Vec<Vec<Statement>>,
}

/// Chances in a thousand, for each call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The request does not arrive.
    pub lost: u32,
    /// The request is applied and its answer is lost.
    pub lost_answer: u32,
    pub throttled: u32,
    pub overloaded: u32,
    /// The database gives up on more statements than one.
    pub too_much: u32,
    pub busy: u32,
}

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub calls: u32,
    pub lost: u32,
    pub lost_answers: u32,
    pub refused: u32,
    /// Calls during which the sink did something else.
    pub overlapped: u32,
    /// Rows of replicated tables and of the checkpoint, as answers say.
    pub rows_written: u64,
    pub most_statements: usize,
}

impl Seen {
    /// Counts in what happened elsewhere.
    pub fn add(&mut self, other: Seen) {
        self.calls += other.calls;
        self.lost += other.lost;
        self.lost_answers += other.lost_answers;
        self.refused += other.refused;
        self.overlapped += other.overlapped;
        self.rows_written += other.rows_written;
        self.most_statements = self.most_statements.max(other.most_statements);
    }
}

impl LocalD1 {
    pub fn new(seed: u64) -> Self {
        let connection = Connection::open_in_memory().unwrap();
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_LENGTH, limits::VALUE_BYTES_MAX),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, limits::SQL_BYTES_MAX),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, limits::PARAMS_MAX),
            (Limit::SQLITE_LIMIT_COLUMN, limits::COLUMNS_MAX),
        ] {
            connection.set_limit(limit, value as i32).unwrap();
        }
        let inner = Inner {
            connection,
            faults: Faults::default(),
            rng: fastrand::Rng::with_seed(seed),
            seen: Seen::default(),
            sent: Vec::new(),
        };
        LocalD1(Arc::new(Mutex::new(inner)))
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    /// The requests since this was last called.
    pub fn take_sent(&self) -> Vec<Vec<Statement>> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    /// Looks into the database.
    pub fn with<T>(&self, look: impl FnOnce(&Connection) -> T) -> T {
        look(&self.0.lock().unwrap().connection)
    }

    pub fn seen(&self) -> Seen {
        self.0.lock().unwrap().seen
    }

    /// What is in the database now, to go back to it.
    pub fn snapshot(&self) -> Vec<u8> {
        self.0.lock().unwrap().connection.serialize("main").unwrap().to_vec()
    }

    /// Goes back to a snapshot, as Time Travel does.
    pub fn restore(&self, snapshot: &[u8]) {
        let mut inner = self.0.lock().unwrap();
        let size = snapshot.len();
        inner.connection.deserialize_read_exact("main", snapshot, size, false).unwrap();
    }

    /// Runs SQL of somebody else.
    pub fn exec(&self, sql: &str) {
        self.0.lock().unwrap().connection.execute_batch(sql).unwrap();
    }

    /// Rows as text, columns joined by `|`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        let mut statement = inner.connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let shown = (0..columns).map(|index| match row.get_ref(index).unwrap() {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(value) => value.to_string(),
                ValueRef::Real(value) => format!("{value:?}"),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => format!("x'{}'", hex::encode(bytes)),
            });
            Ok(shown.collect::<Vec<_>>().join("|"))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }
}

impl Transport for LocalD1 {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        let statements = statements(first, bulk);
        self.0.lock().unwrap().call(&statements)
    }
}

impl Inner {
    fn call(&mut self, statements: &[Statement]) -> Result<Vec<Answer>, Failure> {
        self.seen.calls += 1;
        self.seen.overlapped += u32::from(std::thread::current().name() == Some("d1-request"));
        self.sent.push(statements.to_vec());
        self.seen.most_statements = self.seen.most_statements.max(statements.len());
        let Faults { lost, lost_answer, throttled, overloaded, too_much, busy } = self.faults;
        let mut dice = self.rng.u32(..1000);
        let mut happens = |chance: u32| {
            let happens = dice < chance;
            dice = dice.wrapping_sub(chance);
            happens
        };
        let failure = |verdict| Err(Failure { verdict, message: "as the test asked".to_owned() });
        let refused = [
            (throttled, Verdict::Throttled { retry_after: Duration::ZERO }),
            (overloaded, Verdict::Overloaded),
            (busy, Verdict::Busy),
        ];
        if happens(lost) {
            self.seen.lost += 1;
            return failure(Verdict::Unknown);
        }
        if happens(lost_answer) {
            self.seen.lost_answers += 1;
            let _ = self.apply(statements);
            return failure(Verdict::Unknown);
        }
        for (chance, verdict) in refused {
            if happens(chance) {
                self.seen.refused += 1;
                return failure(verdict);
            }
        }
        if happens(too_much) && statements.len() > 1 {
            self.seen.refused += 1;
            return failure(Verdict::TooMuch);
        }
        self.apply(statements)
    }

    fn apply(&mut self, statements: &[Statement]) -> Result<Vec<Answer>, Failure> {
        let transaction = self.connection.transaction().unwrap();
        let mut answers = Vec::new();
        for statement in statements {
            let answer = run(&transaction, statement).map_err(|error| {
                let message = error.to_string();
                Failure { verdict: verdict(&message), message }
            })?;
            answers.push(answer);
        }
        transaction.commit().unwrap();
        if statements[0].sql.contains("_walcast_checkpoint") {
            self.seen.rows_written += answers.iter().map(|answer| answer.rows_written).sum::<u64>();
        }
        Ok(answers)
    }
}

/// The verdicts that this database can come to by itself.
fn verdict(message: &str) -> Verdict {
    if message.contains("_walcast_checkpoint.") {
        Verdict::Fenced
    } else if message.contains("no such table") || message.contains("no such column") {
        Verdict::SchemaMissing
    } else if message.contains("too big") {
        Verdict::TooLarge
    } else {
        Verdict::Rejected
    }
}

fn run(connection: &Connection, statement: &Statement) -> rusqlite::Result<Answer> {
    let mut prepared = connection.prepare_cached(&statement.sql)?;
    let names: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    let before = connection.total_changes();
    let mut found = prepared.query(params_from_iter(&statement.params))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells = names.iter().enumerate().map(|(index, name)| {
            let value = match row.get_ref(index).unwrap() {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::from(value as f64),
                ValueRef::Real(value) => Value::from(value),
                ValueRef::Text(text) => Value::from(std::str::from_utf8(text).unwrap()),
                ValueRef::Blob(_) => panic!("walcast reads no blobs"),
            };
            (name.clone(), value)
        });
        rows.push(cells.collect::<Map<_, _>>());
    }
    let rows_written = connection.total_changes() - before;
    Ok(Answer { rows, rows_written, size_after: Some(4096) })
}
