//! Adapters: one folder or file per kind of target. Each implements [`Sink`](crate::fanout::sink::Sink).

pub mod null;
pub mod sqlite;
