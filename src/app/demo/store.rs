//! The demo's source: an app store with a column of nearly every type, and how each of its columns is to be compared
//! with a replica.
//!
//! Every column is rendered to text twice: by an SQL expression in Postgres and by one in SQLite. Nothing here knows
//! how walcast converts values; what it should come to is written down a second time, in SQL.

use indexmap::IndexMap;
use serde_json::{Value, json};

use Rendering::{
    Array, Boolean, Bytes, CalendarText, Integer, Json, Numeric, Real, Text, TimeText, UnixSeconds, Uuid,
};

/// The tables, and a function that spells a timestamp as RFC 3339, with ISO 8601's expanded years beyond it.
pub(super) const CREATE: &str = r#"
CREATE TABLE apps (
    id          bigint PRIMARY KEY,
    name        text NOT NULL,
    is_active   boolean,
    price       numeric,
    rating      double precision,
    released    timestamptz,
    updated     timestamptz,
    metadata    jsonb,
    tags        text[],
    icon        bytea,
    description text
);
ALTER TABLE apps ALTER description SET STORAGE EXTERNAL;
CREATE TABLE versions (
    app_id   bigint NOT NULL,
    version  text NOT NULL,
    build    integer,
    bytes    bigint,
    checksum bytea,
    released timestamptz,
    notes    text,
    PRIMARY KEY (app_id, version)
);
CREATE TABLE channels (
    id        uuid PRIMARY KEY,
    app_id    bigint,
    name      varchar(80),
    settings  jsonb,
    is_public boolean,
    since     date
);
CREATE TABLE devices (
    id        bigint PRIMARY KEY,
    serial    uuid,
    model     text,
    battery   double precision,
    app_ids   bigint[],
    last_seen timestamptz
);
CREATE TABLE ledger (
    id      bigserial PRIMARY KEY,
    writer  text NOT NULL,
    changes integer NOT NULL,
    made    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION rfc3339(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN NOT isfinite(moment) THEN moment::text ELSE
        CASE WHEN year < 0 THEN '-' WHEN year > 9999 THEN '+' ELSE '' END
        || lpad(abs(year)::text, greatest(4, length(abs(year)::text)), '0')
        || to_char(utc, '-MM-DD"T"HH24:MI:SS') || rtrim(rtrim(to_char(utc, '.US'), '0'), '.') || 'Z' END
    FROM (SELECT CASE WHEN isfinite(moment) THEN moment AT TIME ZONE 'UTC' END) AS finite (utc),
         -- Before year 1 Postgres counts -1, -2, …; ISO 8601 counts 0, -1, …
         LATERAL (SELECT extract(year FROM utc)::integer + (extract(year FROM utc) < 0)::integer) AS iso (year)
$$;
"#;

/// A table: its name, how many of its first columns are the key, and its columns.
pub(super) struct Table {
    /// Its name, the same in Postgres and in the replicas.
    pub name: &'static str,
    /// How many of `columns`, from the first, are the primary key.
    pub key: usize,
    /// Every column.
    pub columns: &'static [(&'static str, Rendering)],
}

/// The tables, with a rendering per column.
pub(super) const TABLES: [Table; 5] = [
    Table {
        name: "apps",
        key: 1,
        columns: &[
            ("id", Integer),
            ("name", Text),
            ("is_active", Boolean),
            ("price", Numeric),
            ("rating", Real),
            ("released", UnixSeconds),
            ("updated", TimeText),
            ("metadata", Json),
            ("tags", Array),
            ("icon", Bytes),
            ("description", Text),
        ],
    },
    Table {
        name: "versions",
        key: 2,
        columns: &[
            ("app_id", Integer),
            ("version", Text),
            ("build", Integer),
            ("bytes", Integer),
            ("checksum", Bytes),
            ("released", TimeText),
            ("notes", Text),
        ],
    },
    Table {
        name: "channels",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("app_id", Integer),
            ("name", Text),
            ("settings", Json),
            ("is_public", Boolean),
            ("since", CalendarText),
        ],
    },
    Table {
        name: "devices",
        key: 1,
        columns: &[
            ("id", Integer),
            ("serial", Uuid),
            ("model", Text),
            ("battery", Real),
            ("app_ids", Array),
            ("last_seen", UnixSeconds),
        ],
    },
    Table {
        name: "ledger",
        key: 1,
        columns: &[("id", Integer), ("writer", Text), ("changes", Integer), ("made", TimeText)],
    },
];

/// What a column holds, and so how both sides spell its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rendering {
    /// A whole number in decimal digits.
    Integer,
    /// 1 or 0.
    Boolean,
    /// All digits of a numeric, kept as text.
    Numeric,
    /// The eight bytes of a float, in hex. SQLite holds no NaN, so that is NULL.
    Real,
    /// The text itself.
    Text,
    /// A uuid in lower case.
    Uuid,
    /// Bytes in hex.
    Bytes,
    /// A timestamp as whole seconds since 1970, rounded down.
    UnixSeconds,
    /// A timestamp in RFC 3339.
    TimeText,
    /// A day from year 1 to 9999, `YYYY-MM-DD`.
    CalendarText,
    /// JSON, compared as parsed values.
    Json,
    /// An array as JSON, compared as parsed values.
    Array,
}

impl Rendering {
    /// The expression that spells the expected value in Postgres.
    pub(super) fn in_postgres(self, column: &str) -> String {
        match self {
            Integer | Numeric | Text | Uuid | Json => format!("{column}::text"),
            Boolean => format!("{column}::integer::text"),
            Real => format!("CASE WHEN {column} <> 'NaN' THEN encode(float8send({column}), 'hex') END"),
            Bytes => format!("encode({column}, 'hex')"),
            // Truncated first: of a time this far from now, extract() rounds the microseconds to the next second.
            UnixSeconds => format!(
                "CASE {column} WHEN 'infinity' THEN '{}' WHEN '-infinity' THEN '{}' \
                 ELSE floor(extract(epoch FROM date_trunc('second', {column})))::bigint::text END",
                i64::MAX,
                i64::MIN
            ),
            TimeText => format!("rfc3339({column})"),
            CalendarText => format!("to_char({column}, 'YYYY-MM-DD')"),
            Array => format!("array_to_json({column})::text"),
        }
    }

    /// The expression that spells the value in SQLite. A value of another storage class than it should be is spelt as
    /// that, and so never equal.
    pub(super) fn in_sqlite(self, column: &str) -> String {
        let (class, spelt) = match self {
            Integer | Boolean | UnixSeconds => ("integer", format!("CAST({column} AS TEXT)")),
            // A float is read as it is: SQLite has no expression for all of its bits. But JSON has no infinity.
            Real => {
                let infinite = |sign| format!("'{:016x}'", f64::INFINITY.copysign(sign).to_bits());
                let (above, below) = (infinite(1.0), infinite(-1.0));
                (
                    "real",
                    format!(
                        "CASE {column} WHEN 9e999 THEN {above} WHEN -9e999 THEN {below} ELSE {column} END"
                    ),
                )
            }
            Text | Numeric | Uuid | TimeText | CalendarText | Json | Array => ("text", column.to_owned()),
            Bytes => ("blob", format!("lower(hex({column}))")),
        };
        format!(
            "CASE typeof({column}) WHEN 'null' THEN NULL WHEN '{class}' THEN {spelt} \
             ELSE 'of class ' || typeof({column}) END"
        )
    }

    /// Whether the order of the key is that of numbers rather than of bytes.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Integer | Boolean | UnixSeconds)
    }

    /// Whether two different texts may still mean the same value.
    pub(super) fn is_json(self) -> bool {
        matches!(self, Json | Array)
    }

    /// The column's type in `schema.json`.
    fn target(self) -> &'static str {
        match self {
            Integer | UnixSeconds => "INTEGER",
            Boolean => "BOOLEAN",
            Real => "REAL",
            Text | Numeric | Uuid | TimeText | CalendarText => "TEXT",
            Bytes => "BLOB",
            Json | Array => "JSON",
        }
    }
}

/// The demo's `schema.json`.
pub(super) fn schema_json() -> String {
    let tables: IndexMap<&str, Value> = TABLES
        .iter()
        .map(|table| {
            let columns: IndexMap<&str, &str> =
                table.columns.iter().map(|(name, rendering)| (*name, rendering.target())).collect();
            let key: Vec<&str> = table.columns[..table.key].iter().map(|(name, _)| *name).collect();
            (table.name, json!({ "primaryKey": key, "columns": columns }))
        })
        .collect();
    serde_json::to_string_pretty(&tables).expect("strings and maps with string keys serialise") + "\n"
}
