//! What a sink holds of a table that is being filled: which ranges of keys, which single rows it still lacks, and from
//! when on the table is complete. Pure: a fill and a step go in, the fill after the step comes out. The sink keeps it
//! beside the rows and changes both in one transaction, so a fill goes on wherever it was interrupted.
//!
//! A step goes to every sink of a stream, in the order of the queue; each takes what fits where it is, and passes over
//! the rest. So one read at the source serves all sinks that need it, and a sink that is elsewhere is never harmed.
//!
//! `table` is what a sink keeps, `state` what that means, `step` what is sent, and `after` which step changes what.

mod after;
mod state;
mod step;
mod table;

#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod tests;

pub use self::after::Fills;
pub use self::state::{REBUILDING, TableState};
pub use self::step::{Action, FillStep, FillWrite};
pub use self::table::{OwedKey, RangeFill, TableFill};
