//! Postgres → frames.

pub mod catalog;
pub mod publication;
pub(crate) mod query;
pub mod slot;
pub mod table;
