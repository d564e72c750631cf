//! What `walcast demo` needs beside the engine: a Postgres of its own. Tests and benches use the same one.

pub mod cluster;

pub use cluster::Cluster;
