//! Mapped transactions → sinks: one bounded queue, one worker and one position per sink.
//!
//! [`delivery::Delivery`] is what a river sends; [`sink::Sink`] is the delivery contract; [`worker::Worker`] keeps it;
//! [`progress::Progress`] says what a slot may be told. [`outlets::Outlets`] decide when the stream goes on without a
//! sink, [`detour::Detour`] how that one comes back. Nothing here knows what a sink is made of, nor what a slot is.

pub mod blame;
pub mod chain;
pub mod delivery;
pub mod detour;
pub mod fill;
pub mod outlets;
pub mod progress;
pub mod queue;
pub mod retry;
pub mod sink;
pub mod stop;
pub mod worker;
