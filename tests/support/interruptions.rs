//! What happens to a sink between two batches, for the properties of sinks.

use proptest::prelude::*;

/// What happens between two batches.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A batch of up to so many of the runs that are there.
    Batch(usize),
    /// The last batch comes again, as after a lost answer.
    Again,
    /// The stream starts again some transactions earlier.
    Restart(usize),
    /// The engine dies and another one opens the target.
    Crash(usize),
}

/// Up to 29 of them.
pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..6usize).prop_map(Event::Batch),
        2 => Just(Event::Again),
        1 => (0..4usize).prop_map(Event::Restart),
        1 => (0..4usize).prop_map(Event::Crash),
    ];
    prop::collection::vec(event, 1..30)
}
