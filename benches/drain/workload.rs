//! What the source's applications do: five backlogs, each behind a slot of its own.

use std::fmt::Write as _;

use serde_json::json;
use walcast::error::Result;

use crate::scaled;
use crate::server::Server;

/// Rows for each source transaction, where the workload has no shape of its own.
const TRANSACTION_ROWS: u64 = 1000;

const NARROW: &str =
    "CREATE TABLE narrow (id bigint PRIMARY KEY, account integer NOT NULL, amount bigint NOT NULL,
                                           label text NOT NULL)";
const NARROW_ROWS: &str = "INSERT INTO narrow SELECT i, i % 100000, i * 17, 'row number ' || i || ' of many'";

/// A kind of backlog.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    Narrow,
    Tpcb,
    Update,
    Wide,
    Giant,
}

/// A backlog that was written.
pub struct Backlog {
    pub workload: Workload,
    /// The slot at its start, which is only ever copied.
    pub slot: String,
    pub publication: String,
    /// Where it ends.
    pub end_lsn: String,
    /// Row changes in it.
    pub changes: u64,
    pub schema: serde_json::Value,
    /// A table and how many rows a replica has in it when it has drained the backlog.
    pub expected: (&'static str, u64),
}

impl Workload {
    pub const ALL: [Workload; 5] =
        [Workload::Narrow, Workload::Tpcb, Workload::Update, Workload::Wide, Workload::Giant];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Narrow => "narrow",
            Workload::Tpcb => "tpcb",
            Workload::Update => "update",
            Workload::Wide => "wide",
            Workload::Giant => "giant",
        }
    }

    /// What it is, in words, for this many changes.
    pub fn title(self, changes: u64) -> String {
        match self {
            Workload::Narrow => format!("{} inserts of narrow rows, 1,000 a transaction", thousands(changes)),
            Workload::Tpcb => {
                format!("{} TPC-B transactions, {} changes", thousands(changes / 4), thousands(changes))
            }
            Workload::Update => format!("{} updates, 1,000 a transaction", thousands(changes)),
            Workload::Wide => format!("{} inserts of 1 KB rows, 1,000 a transaction", thousands(changes)),
            Workload::Giant => format!("one transaction of {} narrow inserts", thousands(changes)),
        }
    }

    /// Makes tables, publication and slot, then the backlog.
    pub fn write(self, server: &Server, scale: f64) -> Result<Backlog> {
        let (slot, publication) = (format!("bench_{}", self.name()), format!("bench_{}", self.name()));
        let rows = scaled(
            match self {
                Workload::Narrow | Workload::Giant => 1_000_000,
                Workload::Tpcb | Workload::Wide => 200_000,
                Workload::Update => 500_000,
            },
            scale,
        );
        server.execute(&self.tables(rows))?;
        server.execute(&format!(
            "CREATE PUBLICATION {publication} FOR TABLE {}",
            self.published().join(", ")
        ))?;
        server.text(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))?;
        server.execute(&self.changes(rows))?;
        // The end lies behind the last commit, so that whoever has reached it has everything.
        server.text("SELECT pg_logical_emit_message(false, 'bench', 'end')")?;
        server.execute("CHECKPOINT")?;
        let end_lsn = server.text("SELECT pg_current_wal_flush_lsn()")?.unwrap_or_default();
        let expected_table = if self == Workload::Tpcb { "history" } else { self.published()[0] };
        Ok(Backlog {
            workload: self,
            slot,
            publication,
            end_lsn,
            changes: if self == Workload::Tpcb { rows * 4 } else { rows },
            schema: self.schema(),
            expected: (expected_table, rows),
        })
    }

    fn published(self) -> &'static [&'static str] {
        match self {
            Workload::Narrow | Workload::Update | Workload::Giant => &["narrow"],
            Workload::Tpcb => &["branches", "tellers", "accounts", "history"],
            Workload::Wide => &["wide"],
        }
    }

    /// The tables with what is in them before the slot.
    fn tables(self, rows: u64) -> String {
        match self {
            Workload::Narrow | Workload::Giant => NARROW.to_owned(),
            Workload::Update => format!("{NARROW}; {NARROW_ROWS} FROM generate_series(1, {rows}) i"),
            Workload::Tpcb => {
                // As pgbench makes them at scale 10, with a key for the history.
                "CREATE TABLE branches (bid integer PRIMARY KEY, bbalance integer, filler char(88));
                 CREATE TABLE tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler char(84));
                 CREATE TABLE accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84))
                   WITH (fillfactor = 90);
                 CREATE TABLE history (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tid integer, bid integer,
                   aid integer, delta integer, mtime timestamp, filler char(22));
                 INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, 10) i;
                 INSERT INTO tellers SELECT i, (i - 1) / 10 + 1, 0, '' FROM generate_series(1, 100) i;
                 INSERT INTO accounts SELECT i, (i - 1) / 100000 + 1, 0, '' FROM generate_series(1, 1000000) i"
                    .to_owned()
            }
            Workload::Wide => {
                let mut sql =
                    "CREATE TABLE wide (id bigint PRIMARY KEY, uid uuid, is_active boolean, body jsonb, \
                               created timestamptz, changed timestamptz, price numeric(12, 2), ratio float8"
                        .to_owned();
                (1..=4).for_each(|n| write!(sql, ", n{n} integer").expect("a String takes it"));
                (1..=8).for_each(|n| write!(sql, ", t{n} text").expect("a String takes it"));
                sql + ")"
            }
        }
    }

    /// The backlog itself.
    fn changes(self, rows: u64) -> String {
        let batches = rows / TRANSACTION_ROWS;
        let in_batches = |statement: &str| {
            format!(
                "DO $$ BEGIN FOR b IN 0..{batches} - 1 LOOP {statement} \
                 generate_series(b * {TRANSACTION_ROWS} + 1, (b + 1) * {TRANSACTION_ROWS}) i; COMMIT; END LOOP; END $$"
            )
        };
        match self {
            Workload::Narrow => in_batches(&format!("{NARROW_ROWS} FROM")),
            Workload::Giant => format!("{NARROW_ROWS} FROM generate_series(1, {rows}) i"),
            Workload::Update => format!(
                "DO $$ BEGIN FOR b IN 0..{batches} - 1 LOOP UPDATE narrow SET amount = amount + 1
                 WHERE id BETWEEN b * {TRANSACTION_ROWS} + 1 AND (b + 1) * {TRANSACTION_ROWS};
                 COMMIT; END LOOP; END $$"
            ),
            Workload::Tpcb => format!(
                "DO $$ DECLARE a integer; t integer; d integer; BEGIN FOR n IN 1..{rows} LOOP
                   a := 1 + floor(random() * 1000000); t := 1 + floor(random() * 100);
                   d := floor(random() * 10001) - 5000;
                   UPDATE accounts SET abalance = abalance + d WHERE aid = a;
                   UPDATE tellers SET tbalance = tbalance + d WHERE tid = t;
                   UPDATE branches SET bbalance = bbalance + d WHERE bid = (t - 1) / 10 + 1;
                   INSERT INTO history (tid, bid, aid, delta, mtime) VALUES (t, (t - 1) / 10 + 1, a, d, now());
                   COMMIT;
                 END LOOP; END $$"
            ),
            Workload::Wide => in_batches(
                "INSERT INTO wide SELECT i, md5(i::text)::uuid, i % 2 = 0, jsonb_build_object('id', i, 'tags', \
                 array['one', 'two']), now(), now(), i * 0.37, i / 7.0, i, i * 2, i % 97, i % 1000, \
                 repeat(md5(i::text), 3), repeat(md5(i::text), 3), repeat(md5(i::text), 3), repeat(md5(i::text), 3), \
                 repeat(md5(i::text), 3), repeat(md5(i::text), 3), repeat(md5(i::text), 3), repeat(md5(i::text), 3) \
                 FROM",
            ),
        }
    }

    fn schema(self) -> serde_json::Value {
        let narrow = json!({ "narrow": { "primaryKey": "id", "columns":
            { "id": "INTEGER", "account": "INTEGER", "amount": "INTEGER", "label": "TEXT" } } });
        match self {
            Workload::Narrow | Workload::Update | Workload::Giant => narrow,
            Workload::Tpcb => json!({
                "branches": { "primaryKey": "bid", "columns":
                    { "bid": "INTEGER", "bbalance": "INTEGER", "filler": "TEXT" } },
                "tellers": { "primaryKey": "tid", "columns":
                    { "tid": "INTEGER", "bid": "INTEGER", "tbalance": "INTEGER", "filler": "TEXT" } },
                "accounts": { "primaryKey": "aid", "columns":
                    { "aid": "INTEGER", "bid": "INTEGER", "abalance": "INTEGER", "filler": "TEXT" } },
                "history": { "primaryKey": "id", "columns":
                    { "id": "INTEGER", "tid": "INTEGER", "bid": "INTEGER", "aid": "INTEGER", "delta": "INTEGER",
                      "mtime": "TEXT", "filler": "TEXT" } },
            }),
            Workload::Wide => {
                let mut columns = json!({ "id": "INTEGER", "uid": "TEXT", "is_active": "BOOLEAN", "body": "JSON",
                    "created": "TEXT", "changed": "INTEGER", "price": "TEXT", "ratio": "REAL" });
                (1..=4).for_each(|n| columns[format!("n{n}")] = "INTEGER".into());
                (1..=8).for_each(|n| columns[format!("t{n}")] = "TEXT".into());
                json!({ "wide": { "primaryKey": "id", "columns": columns } })
            }
        }
    }
}

impl Backlog {
    /// Takes slot, publication and tables away.
    pub fn remove(&self, server: &Server) -> Result<()> {
        server.text(&format!("SELECT pg_drop_replication_slot('{}')", self.slot))?;
        server.execute(&format!("DROP PUBLICATION {}", self.publication))?;
        server.execute(&format!("DROP TABLE {}", self.workload.published().join(", ")))
    }
}

/// The number with commas.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
