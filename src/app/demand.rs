//! What is asked of a running engine from beside it: to be at a position soon. The HTTP API asks; the engine's streams,
//! its pauses and its schedule listen. Asking never blocks, and asking again costs nothing.

use tokio::sync::watch;

use crate::Lsn;

/// How soon is soon enough where nobody asks, the configuration says; this says when somebody does.
#[derive(Debug)]
pub struct Demand {
    wanted: watch::Sender<Lsn>,
}

impl Default for Demand {
    fn default() -> Self {
        Demand { wanted: watch::Sender::new(Lsn::ZERO) }
    }
}

impl Demand {
    /// Asks that every sink be at `lsn` as soon as it can: an idle position is fetched at once, a pause ends, and a
    /// scheduled run begins, also where the position itself is nothing new.
    pub fn hasten(&self, lsn: Lsn) {
        self.wanted.send_modify(|wanted| *wanted = lsn.max(*wanted));
    }

    /// Ends pauses, and wants no position.
    pub fn wake(&self) {
        self.hasten(Lsn::ZERO);
    }

    /// The highest position that was asked for.
    pub fn wanted(&self) -> Lsn {
        *self.wanted.borrow()
    }

    /// The position as it is now and changes; each time somebody asks counts as a change.
    pub fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.wanted.subscribe()
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        // The sender is here, so it cannot be gone.
        let _ = self.subscribe().changed().await;
    }
}
