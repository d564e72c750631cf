//! walcast keeps edge databases in step with Postgres.

pub mod capture;
pub mod config;
pub mod encode;
pub mod error;

pub use pgwire_replication::Lsn;
