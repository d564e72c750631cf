//! Transactions → mapped transactions. Pure: no tokio, socket, clock or file.
//!
//! [`schema_file`] reads `schema.json`; [`plan`] is what it says after checking against the source; [`mapper`] maps
//! each row once into [`run`]s of [`cell`]s, for all sinks, as long as the source fits, and [`misfit`] says why where it does not; [`current`] is the plan while that
//! changes. [`value`] converts one value: [`time`], [`mod@array`],
//! [`json`] and [`binary`] know the forms. [`json_rows`] and [`fold`] are for sinks that bind whole row sets and pay
//! for each row. [`chunk`] maps what a backfill reads, and [`touched`] says which of it would take a sink back.
//! [`key_hashes`] are for a log that has to find a row again without keeping it.

pub mod array;
pub mod binary;
pub mod cell;
pub mod chunk;
pub mod column_type;
pub mod current;
pub mod fold;
pub mod json;
pub mod json_rows;
pub mod key_hashes;
pub mod mapper;
pub mod misfit;
pub mod plan;
pub mod rejection;
mod row_writer;
pub mod run;
mod scalar;
pub mod schema_file;
mod stack_text;
pub mod time;
pub mod touched;
pub mod value;
