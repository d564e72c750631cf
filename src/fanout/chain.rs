//! A worker's queues, one after the other. A sink that leaves the stream, catches up on its own and comes back gets a
//! queue for each of these; they are emptied in the order in which they were handed over, so nothing is lost or
//! overtaken. What two of them both hold is left out by the sink's checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel as channel;

use super::delivery::Delivery;
use super::queue::{Received, Receiver};

/// The worker's end of one queue.
pub struct Inlet {
    queue: Receiver<Delivery>,
    line: Arc<Line>,
}

/// What both ends of a queue know of it.
#[derive(Debug)]
pub(super) struct Line {
    /// How often a sink of this stream has asked for it again.
    replays: Arc<AtomicU64>,
    /// The river sends nothing more here.
    is_cut: AtomicBool,
}

impl Line {
    pub(super) fn new(replays: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Line { replays, is_cut: AtomicBool::new(false) })
    }

    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }
}

impl Inlet {
    pub(super) fn new(queue: Receiver<Delivery>, line: Arc<Line>) -> Self {
        Inlet { queue, line }
    }

    /// Whether the sink was left behind on this queue: nothing more comes in it.
    pub fn is_cut(&self) -> bool {
        self.line.is_cut.load(Ordering::Acquire)
    }
}

/// All queues of one worker.
pub struct Chain {
    inlets: channel::Receiver<Inlet>,
    inlet: Option<Inlet>,
    /// Bytes that were taken from the present queue and are not released.
    held_bytes: usize,
}

/// Makes a chain without a queue yet, and the end at which queues are put behind it. The chain ends once that end is
/// dropped and every queue is closed and empty.
pub fn chain() -> (channel::Sender<Inlet>, Chain) {
    let (tx, inlets) = channel::unbounded();
    (tx, Chain { inlets, inlet: None, held_bytes: 0 })
}

impl Chain {
    /// The next delivery, waiting for it; `None` at the chain's end. Where one queue ends and another may come, this is
    /// a [`Delivery::Restart`]: a transaction that has not ended does not go on in the next queue, it comes whole.
    pub fn receive(&mut self) -> Option<Delivery> {
        loop {
            match &self.inlet {
                None => self.inlet = Some(self.inlets.recv().ok()?),
                Some(inlet) => match inlet.queue.receive() {
                    Some(delivery) => return Some(self.hold(delivery)),
                    None => match self.next() {
                        Received::Item(delivery) => return Some(delivery),
                        Received::Empty | Received::Closed => return None,
                    },
                },
            }
        }
    }

    /// The same without waiting.
    pub fn try_receive(&mut self) -> Received<Delivery> {
        loop {
            match &self.inlet {
                None => match self.inlets.try_recv() {
                    Ok(inlet) => self.inlet = Some(inlet),
                    Err(channel::TryRecvError::Empty) => return Received::Empty,
                    Err(channel::TryRecvError::Disconnected) => return Received::Closed,
                },
                Some(inlet) => match inlet.queue.try_receive() {
                    Received::Item(delivery) => return Received::Item(self.hold(delivery)),
                    Received::Empty => return Received::Empty,
                    Received::Closed => return self.next(),
                },
            }
        }
    }

    /// Gives back the room of deliveries that are done with. Those of a queue that has ended need none.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held_bytes);
        self.held_bytes -= bytes;
        if let Some(inlet) = &self.inlet {
            inlet.queue.release(bytes);
        }
    }

    /// Asks for the stream again from the sink's checkpoint. It comes from the present queue's stream, or with the next
    /// queue where the sink was left behind.
    pub fn request_replay(&self) {
        if let Some(inlet) = self.inlet.as_ref().filter(|inlet| !inlet.is_cut()) {
            inlet.line.replays.fetch_add(1, Ordering::Release);
        }
    }

    /// Goes on to the next queue, after a present one that is closed and empty.
    fn next(&mut self) -> Received<Delivery> {
        self.held_bytes = 0;
        match self.inlets.try_recv() {
            Ok(inlet) => self.inlet = Some(inlet),
            Err(channel::TryRecvError::Empty) => self.inlet = None,
            Err(channel::TryRecvError::Disconnected) => return Received::Closed,
        }
        Received::Item(Delivery::Restart)
    }

    fn hold(&mut self, delivery: Delivery) -> Delivery {
        self.held_bytes += delivery.bytes();
        delivery
    }
}
