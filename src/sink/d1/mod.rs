//! A regional replica in a Cloudflare D1 database, through its REST API or through the Worker that walcast ships.

pub mod budget;
pub mod http;
pub mod rest;
pub mod transport;
pub mod verdict;
pub mod worker;
