//! Transactions → mapped transactions.

pub mod cell;
pub mod column_type;
pub mod rejection;
pub mod time;
