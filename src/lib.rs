//! walcast keeps edge databases in step with Postgres.

pub mod app;
pub mod capture;
pub mod config;
pub mod decode;
pub mod encode;
pub mod error;
pub mod fanout;
pub mod postgres;
pub mod sink;
pub mod telemetry;

pub use pgwire_replication::Lsn;
