//! Postgres → frames.
//!
//! Before the stream: [`catalog`] reads what the source is, [`publication`] and [`slot`] make and check what the
//! stream needs. Then [`mod@stream`] reads the socket, at its [`pace`], and hands on [`frame`]s. [`snapshot`] says what a read of the source saw. [`table`] describes tables for all
//! stages and touches no socket.

pub mod catalog;
pub mod copy_text;
pub mod frame;
pub mod pace;
pub mod publication;
pub(crate) mod query;
pub mod slot;
pub mod snapshot;
pub mod stream;
pub mod table;
