//! walcast keeps edge databases in step with Postgres.

pub mod app;
pub mod capture;
pub mod encode;
pub mod error;
pub mod postgres;

pub use pgwire_replication::Lsn;
