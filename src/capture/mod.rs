//! Postgres → frames.

pub mod catalog;
pub mod publication;
mod query;
pub mod slot;
pub mod table;
