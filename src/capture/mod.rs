//! Postgres → frames.

pub mod table;
