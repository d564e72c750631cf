//! Transactions → mapped transactions.

pub mod array;
pub mod binary;
pub mod cell;
pub mod column_type;
pub mod json;
pub mod rejection;
mod scalar;
mod stack_text;
pub mod time;
pub mod value;
