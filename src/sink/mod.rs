//! Adapters: one folder or file per kind of target. Each implements [`Sink`](crate::fanout::sink::Sink).

pub mod alter;
pub mod d1;
pub mod definition;
pub mod marked;
pub mod null;
pub mod reading;
pub mod replica;
pub mod shape;
pub mod sqlite;
pub mod statement;
