//! Postgres → frames.
//!
//! Before the stream: [`catalog`] reads what the source is, [`publication`] and [`slot`] make and check what the
//! stream needs. Then [`mod@stream`] reads the socket, at its [`pace`] or with [`haste`], and hands on [`frame`]s. [`chunk`] reads a table
//! for a backfill, as [`copy_text`], and [`snapshot`] says what a read saw. [`table`] describes tables for all stages and
//! touches no socket. [`locks`] says who writes to one.

pub mod catalog;
pub mod chunk;
pub mod copy_text;
pub mod frame;
pub mod haste;
pub mod locks;
pub mod pace;
pub mod publication;
pub(crate) mod query;
pub mod slot;
pub mod snapshot;
pub mod stream;
pub mod table;
