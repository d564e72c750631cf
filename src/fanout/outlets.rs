//! The river's end of all queues: what it sends goes to every sink that still runs.

use super::queue::{Closed, Sender};
use super::worker::Delivery;

/// One queue for each sink.
#[derive(Default)]
pub struct Outlets(Vec<Sender<Delivery>>);

impl Outlets {
    /// Outlets to these queues.
    pub fn new(queues: Vec<Sender<Delivery>>) -> Self {
        Outlets(queues)
    }

    /// Sends to every sink, waiting for room in each queue. A sink that stopped is passed over: its checkpoint holds
    /// the slot back, so nothing is lost for it.
    ///
    /// # Errors
    /// [`Closed`] once no sink is left.
    pub fn send(&self, delivery: &Delivery) -> Result<(), Closed> {
        let bytes = delivery.bytes();
        let sent = self.0.iter().filter(|queue| queue.send(delivery.clone(), bytes).is_ok()).count();
        if sent == 0 && !self.0.is_empty() { Err(Closed) } else { Ok(()) }
    }

    /// Bytes queued for each sink and not applied yet.
    pub fn used_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(Sender::used_bytes)
    }
}
