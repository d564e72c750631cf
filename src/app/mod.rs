//! The top of the crate: what an operator starts. It wires the stages below it and owns processes, signals and
//! shutdown order; nothing else in the crate may import it.

pub mod admin;
mod bookmark;
pub mod check;
pub mod cli;
pub mod commands;
pub mod d1;
pub mod demand;
pub mod demo;
pub mod engine;
mod evolution;
pub mod fill;
pub mod heartbeat;
pub mod jobs;
pub mod letters;
pub mod notify;
pub mod reload;
pub mod replicas;
pub mod retry;
pub mod river;
pub mod sinks;
pub mod source;
pub mod supervisor;
pub mod trace;
pub mod view;
