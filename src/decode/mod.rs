//! Frames → transactions of typed changes. Pure: no tokio, socket, clock or file.
//!
//! [`message`] reads one pgoutput message; [`Decoder`] holds what spans messages: which relations the stream has
//! described, and whether a transaction is open.

pub mod decoder;
pub mod message;

pub use decoder::{Change, Decoder, Event};
