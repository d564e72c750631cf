//! One file per command; how they print is in `output`.

pub mod check;
pub mod failed;
pub mod output;
pub mod refill;
pub mod reload;
pub mod run;
pub mod schema;
pub mod status;
pub mod teardown;
pub mod trace;
