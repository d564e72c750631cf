//! The top of the crate: what an operator starts. It wires the stages below it and owns processes, signals and
//! shutdown order; nothing else in the crate may import it.

pub mod admin;
pub mod check;
pub mod cli;
pub mod commands;
pub mod d1;
pub mod demo;
pub mod engine;
pub mod fill;
pub mod letters;
pub mod notify;
pub mod replicas;
pub mod river;
pub mod sinks;
pub mod source;
pub mod trace;
pub mod view;
