//! What the workload writes, as SQL: a generator for the ordinary transactions, and the large ones. Everything that is
//! hard to replicate comes up: updates that leave a TOASTed value alone, changed and swapped keys, a key that is deleted
//! and inserted anew in one transaction, truncated tables, and values at the edges of their types.

use std::fmt::Write;

use super::extremes::{ARRAYS, DOCUMENTS, FLOATS, ICONS, INTEGERS, NAMES, NUMERICS, TIMES};
use crate::postgres::quote_literal;

/// Rows of a large transaction.
const LARGE_ROWS: u64 = 20_000;
/// Where the devices of the large transactions begin; ordinary ones are below.
const LARGE_DEVICES: u64 = 10_000_000;
/// How far apart the keys of two writers are.
const KEYS_OF_A_WRITER: i64 = 1_000_000_000;
/// Devices of one writer, of which it upserts a run at a time.
const DEVICES_OF_A_WRITER: u64 = 2_000;
/// Statements in an ordinary transaction.
const STATEMENTS_MAX: u32 = 4;
/// Rows of which a writer remembers the key at most.
const KEYS_MAX: usize = 2_000;
/// One value in so many is an extreme one.
const EXTREME_ONE_IN: u32 = 6;

/// The source of one writer's transactions. It remembers the keys that it has given out, and so expects that every
/// transaction is committed.
pub(super) struct Generator {
    writer: u32,
    random: fastrand::Rng,
    /// The keys of its apps that exist.
    apps: Vec<i64>,
    /// Its channels, of which a truncate may have removed any.
    channels: Vec<String>,
    next: i64,
}

impl Generator {
    /// The generator of a writer, counted from 1. The same writer gets the same transactions.
    pub(super) fn new(writer: u32) -> Self {
        Generator {
            writer,
            random: fastrand::Rng::with_seed(u64::from(writer)),
            apps: Vec::new(),
            channels: Vec::new(),
            next: i64::from(writer) * KEYS_OF_A_WRITER,
        }
    }

    /// The statements of the next transaction.
    pub(super) fn transaction(&mut self) -> String {
        // Alone, because it waits for everybody: whoever holds no other lock ends no circle.
        if self.random.u32(..200) == 0 {
            return "TRUNCATE channels".to_owned();
        }
        let mut sql = String::new();
        for _ in 0..self.random.u32(1..=STATEMENTS_MAX) {
            self.change(&mut sql);
        }
        if self.random.u32(..10) == 0 {
            // A row that all writers change; last, for the same reason.
            sql.push_str("UPDATE apps SET rating = coalesce(rating, 0) + 1 WHERE id = 0; ");
        }
        sql
    }

    fn change(&mut self, sql: &mut String) {
        let Some(app) = self.some_app() else { return self.insert_app(sql) };
        let _ = match self.random.u32(..100) {
            0..25 if self.apps.len() < KEYS_MAX => return self.insert_app(sql),
            0..45 => write!(
                sql,
                "UPDATE apps SET rating = {}, price = {}, updated = {} WHERE id = {app}; ",
                self.float(),
                self.numeric(),
                self.time()
            ),
            45..52 => write!(sql, "UPDATE apps SET description = {} WHERE id = {app}; ", self.long_text()),
            52..60 => write!(sql, "UPDATE apps SET metadata = {} WHERE id = {app}; ", self.document()),
            60..66 => return self.change_key(app, sql),
            66..74 => return self.delete_app(app, sql),
            74..80 => return self.replace_app(app, sql),
            80..90 => return self.upsert_devices(sql),
            90..96 => return self.insert_channel(sql),
            _ => return self.change_channel(sql),
        };
    }

    fn insert_app(&mut self, sql: &mut String) {
        let id = self.new_key();
        self.apps.push(id);
        self.insert_app_with(id, sql);
        let versions = self.random.u32(1..4);
        for minor in 0..versions {
            let _ = write!(
                sql,
                "INSERT INTO versions VALUES ({id}, '1.{minor}.0', {}, {}, {}, {}, {}); ",
                self.random.i32(..),
                self.integer(),
                self.bytes(),
                self.time(),
                if minor == 0 { self.long_text() } else { self.name() },
            );
        }
    }

    fn insert_app_with(&mut self, id: i64, sql: &mut String) {
        let is_active = ["true", "false", "NULL"][self.random.usize(..3)];
        let _ = write!(
            sql,
            "INSERT INTO apps VALUES ({id}, {}, {is_active}, {}, {}, {}, {}, {}, {}, {}, {}); ",
            self.name(),
            self.numeric(),
            self.float(),
            self.time(),
            self.time(),
            self.document(),
            self.texts(),
            self.bytes(),
            self.long_text(),
        );
    }

    /// New keys, one or two rows at once; the TOASTed description stays as it is.
    fn change_key(&mut self, app: i64, sql: &mut String) {
        let _ = match (self.some_app(), self.random.bool()) {
            (Some(other), true) if other != app => {
                let between = self.new_key();
                write!(
                    sql,
                    "UPDATE apps SET id = {between} WHERE id = {app}; UPDATE apps SET id = {app} WHERE id = {other}; \
                     UPDATE apps SET id = {other} WHERE id = {between}; "
                )
            }
            _ => {
                let id = self.new_key();
                self.apps.retain(|known| *known != app);
                self.apps.push(id);
                write!(
                    sql,
                    "UPDATE apps SET id = {id} WHERE id = {app}; UPDATE versions SET app_id = {id} WHERE app_id = {app}; \
                     UPDATE versions SET version = version || '-hotfix', build = {} \
                     WHERE app_id = {id} AND version = '1.0.0'; ",
                    self.random.i32(..)
                )
            }
        };
    }

    fn delete_app(&mut self, app: i64, sql: &mut String) {
        self.apps.retain(|known| *known != app);
        let _ = write!(sql, "DELETE FROM versions WHERE app_id = {app}; DELETE FROM apps WHERE id = {app}; ");
    }

    /// The same key again in the same transaction.
    fn replace_app(&mut self, app: i64, sql: &mut String) {
        let _ = write!(sql, "DELETE FROM apps WHERE id = {app}; ");
        self.insert_app_with(app, sql);
    }

    fn upsert_devices(&mut self, sql: &mut String) {
        let first =
            u64::from(self.writer) * DEVICES_OF_A_WRITER + self.random.u64(..DEVICES_OF_A_WRITER - 20);
        let (battery, time) = (self.float(), self.time());
        let _ = write!(
            sql,
            "{} ON CONFLICT (id) DO UPDATE SET battery = {battery}, last_seen = {time}; ",
            devices(first, first + self.random.u64(1..20))
        );
    }

    fn insert_channel(&mut self, sql: &mut String) {
        let (high, low) = (self.random.u64(..), self.random.u64(..));
        let uuid = format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48,
            low & 0xffff_ffff_ffff
        );
        let _ = write!(
            sql,
            "INSERT INTO channels VALUES ('{uuid}', {}, {}, {}, {}, DATE '2000-01-01' + {}); ",
            self.integer(),
            self.name(),
            self.document(),
            self.random.bool(),
            self.random.u32(..20_000),
        );
        if self.channels.len() == KEYS_MAX {
            self.channels.clear();
        }
        self.channels.push(uuid);
    }

    fn change_channel(&mut self, sql: &mut String) {
        if self.channels.is_empty() {
            return self.insert_channel(sql);
        }
        let uuid = self.channels.swap_remove(self.random.usize(..self.channels.len()));
        let _ = match self.random.bool() {
            true => write!(sql, "DELETE FROM channels WHERE id = '{uuid}'; "),
            false => {
                let document = self.document();
                write!(
                    sql,
                    "UPDATE channels SET settings = {document}, is_public = NULL WHERE id = '{uuid}'; "
                )
            }
        };
    }

    fn some_app(&mut self) -> Option<i64> {
        (!self.apps.is_empty()).then(|| self.apps[self.random.usize(..self.apps.len())])
    }

    fn new_key(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// One of the extreme values now and then, else an ordinary one; as an SQL literal.
    fn value(&mut self, extremes: &[&str], ordinary: impl FnOnce(&mut fastrand::Rng) -> String) -> String {
        match self.random.u32(..EXTREME_ONE_IN * 2) {
            0 | 1 => quote_literal(extremes[self.random.usize(..extremes.len())]),
            2 => "NULL".to_owned(),
            _ => quote_literal(&ordinary(&mut self.random)),
        }
    }

    fn name(&mut self) -> String {
        let number = self.random.u32(..);
        match self.value(&NAMES, |_| format!("App {number}")) {
            null if null == "NULL" => "'no name'".to_owned(),
            name => name,
        }
    }

    fn numeric(&mut self) -> String {
        self.value(&NUMERICS, |random| format!("{}.{:02}", random.u32(..1000), random.u32(..100)))
    }

    fn float(&mut self) -> String {
        self.value(&FLOATS, |random| format!("{:?}", random.f64() * 5.0))
    }

    fn time(&mut self) -> String {
        self.value(&TIMES, |random| {
            format!(
                "2024-{:02}-{:02} 12:34:56.{:06}+02",
                random.u32(1..13),
                random.u32(1..29),
                random.u32(..1_000_000)
            )
        })
    }

    fn document(&mut self) -> String {
        self.value(&DOCUMENTS, |random| {
            format!(r#"{{"stars": {}, "tags": ["a", "b"], "note": "{:x}"}}"#, random.u32(..6), random.u64(..))
        })
    }

    fn texts(&mut self) -> String {
        self.value(&ARRAYS, |random| format!("{{games,level-{}}}", random.u32(..100)))
    }

    fn bytes(&mut self) -> String {
        self.value(&ICONS, |random| format!("\\x{:016x}00", random.u64(..)))
    }

    fn integer(&mut self) -> String {
        self.value(&INTEGERS, |random| random.i64(..).to_string())
    }

    /// An expression for a text that is stored out of line.
    fn long_text(&mut self) -> String {
        format!("repeat(md5('{}'), {})", self.random.u32(..), self.random.u32(65..200))
    }
}

/// New devices, in one transaction.
pub(super) fn insert_devices(round: u64) -> String {
    let first = LARGE_DEVICES + round * LARGE_ROWS;
    devices(first, first + LARGE_ROWS - 1)
}

/// A change of every device of the first round.
pub(super) fn update_devices() -> String {
    let end = LARGE_DEVICES + LARGE_ROWS;
    format!(
        "UPDATE devices SET battery = battery / 3, model = model || '+' WHERE id >= {LARGE_DEVICES} AND id < {end}"
    )
}

/// The end of every device of the first round.
pub(super) fn delete_devices() -> String {
    let end = LARGE_DEVICES + LARGE_ROWS;
    format!("DELETE FROM devices WHERE id >= {LARGE_DEVICES} AND id < {end}")
}

fn devices(first: u64, last: u64) -> String {
    format!(
        "INSERT INTO devices SELECT n, md5(n::text)::uuid, 'model ' || n % 7, n / 7.0, ARRAY[n, -n, NULL], \
         timestamptz '2024-01-01 00:00:00.25+00' + n * interval '1 second' FROM generate_series({first}, {last}) AS n"
    )
}
