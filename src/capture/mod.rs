//! Postgres → frames.

pub mod frame;
pub mod table;
