//! `walcast.toml` and the environment.

pub(crate) mod document;
