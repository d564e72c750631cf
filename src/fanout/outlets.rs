//! A river's end of its sinks' queues. What it sends goes to all of them; here is decided when it goes on without one
//! that is too slow, and where that one comes back.
//!
//! **Leaving.** While there is no room in a sink's queue, all wait. A sink that makes others wait that have nothing left
//! to do gathers [`Blame`]; beyond the patience its queue is closed and the stream goes on. What is in the queue stays
//! in it. So a sink alone never leaves, nor do sinks that are all slow, nor one that is merely slower.
//!
//! **Joining.** A sink that has caught up is taken in between two transactions: everything behind that position goes to
//! its new queue, everything up to it comes from its own stream. See [`SinkProgress::take_in`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::blame::Blame;
use super::chain::{Inlet, Line};
use super::progress::SinkProgress;
use super::queue::{self, Refused, Sender};
use super::worker::Delivery;
use crate::Lsn;

/// How long a wait for room is before the other queues are looked at: short against any patience, long against a look.
const WAIT: Duration = Duration::from_millis(5);

/// One river's queues.
pub struct Outlets {
    flow: Mutex<Flow>,
    /// Sinks that are to be taken in at the next end of a transaction.
    joining: Mutex<Vec<Outlet>>,
    /// The highest position up to which everything was sent, or was in a sink before.
    position: AtomicU64,
    replays: Arc<AtomicU64>,
    patience: Duration,
    left: mpsc::UnboundedSender<Arc<SinkProgress>>,
}

/// What the river holds while it sends.
#[derive(Default)]
struct Flow {
    outlets: Vec<Outlet>,
    /// What was sent last ended a transaction.
    is_between: bool,
    is_closed: bool,
}

/// The river's end of one sink's queue.
pub struct Outlet {
    sink: Arc<SinkProgress>,
    queue: Sender<Delivery>,
    line: Arc<Line>,
    blame: Blame,
    /// There was no room for what is being sent.
    waits: bool,
}

impl Outlets {
    /// Outlets without a queue yet. The receiver is told of every sink that was attached and is left behind because it
    /// exhausted the `patience`.
    pub fn new(patience: Duration) -> (Self, mpsc::UnboundedReceiver<Arc<SinkProgress>>) {
        let (left, leaving) = mpsc::unbounded_channel();
        let outlets = Outlets {
            flow: Mutex::default(),
            joining: Mutex::default(),
            position: AtomicU64::new(0),
            replays: Arc::default(),
            patience,
            left,
        };
        (outlets, leaving)
    }

    /// Makes a queue for a sink that holds up to `bytes_max`.
    pub fn queue(&self, sink: &Arc<SinkProgress>, bytes_max: usize) -> (Outlet, Inlet) {
        let (queue, receiver) = queue::bounded(bytes_max);
        let line = Line::new(self.replays.clone());
        let inlet = Inlet::new(receiver, line.clone());
        (Outlet { sink: sink.clone(), queue, line, blame: Blame::default(), waits: false }, inlet)
    }

    /// Sends to this queue too, from the start of the next session on.
    pub fn attach(&self, outlet: Outlet) {
        self.position.fetch_max(outlet.sink.durable_lsn().0, Ordering::AcqRel);
        self.flow().outlets.push(outlet);
    }

    /// Takes the sink in as soon as the river is between two transactions: it is [joining] then.
    ///
    /// [joining]: super::progress::Phase::Joining
    pub fn join(&self, outlet: Outlet) {
        lock(&self.joining).push(outlet);
        self.take_in_now();
    }

    /// Takes in whoever waits, if the river rests between two transactions. A river that flows does so by itself.
    pub fn take_in_now(&self) {
        if let Ok(mut flow) = self.flow.try_lock() {
            self.take_in(&mut flow);
        }
    }

    /// Sends to every sink, waiting for room in each queue, but not beyond its sink's blame. A sink that stopped or is
    /// left behind is passed over: a slot is held for it, so nothing is lost.
    pub fn send(&self, delivery: &Delivery) {
        let bytes = delivery.bytes();
        let mut flow = self.flow();
        let mut waits = false;
        flow.outlets.retain_mut(|outlet| {
            let sent = outlet.queue.try_send(delivery.clone(), bytes);
            outlet.waits = sent == Err(Refused::Full);
            waits |= outlet.waits;
            sent != Err(Refused::Closed)
        });
        while waits {
            waits = self.wait(&mut flow.outlets, delivery, bytes);
        }
        let end_lsn = delivery.end_lsn();
        flow.is_between = end_lsn.is_some();
        if let Some(end_lsn) = end_lsn {
            self.position.fetch_max(end_lsn.0, Ordering::AcqRel);
            self.take_in(&mut flow);
        }
    }

    /// Waits for room a little, then tries again wherever there was none. True if there still is a queue without room.
    fn wait(&self, outlets: &mut Vec<Outlet>, delivery: &Delivery, bytes: usize) -> bool {
        let started = Instant::now();
        if let Some(full) = outlets.iter().find(|outlet| outlet.waits) {
            full.queue.wait_for_room(bytes, WAIT.min(self.patience));
        }
        let now = Instant::now();
        let starves = outlets.iter().any(|outlet| !outlet.waits && outlet.queue.used_bytes() == 0);
        let mut waits = false;
        outlets.retain_mut(|outlet| {
            if !outlet.waits {
                return true;
            }
            if starves {
                let blame = outlet.blame.add(now, now - started);
                if blame >= self.patience {
                    self.leave_behind(outlet);
                    return false;
                }
            }
            let sent = outlet.queue.try_send(delivery.clone(), bytes);
            outlet.waits = sent == Err(Refused::Full);
            waits |= outlet.waits;
            sent != Err(Refused::Closed)
        });
        waits
    }

    /// Goes on without the sink at once, as if it had exhausted the patience.
    pub fn leave(&self, sink: &SinkProgress) {
        self.flow().outlets.retain(|outlet| {
            let is_left = outlet.sink.name == sink.name;
            if is_left {
                self.leave_behind(outlet);
            }
            !is_left
        });
    }

    fn leave_behind(&self, outlet: &Outlet) {
        outlet.line.cut();
        let was_attached = outlet.sink.leave();
        tracing::warn!(
            sink = outlet.sink.name,
            checkpoint = %outlet.sink.durable_lsn(),
            "the sink is slower than the others, which go on without it"
        );
        if was_attached {
            // Nobody listens while the engine ends.
            let _ = self.left.send(outlet.sink.clone());
        }
    }

    fn take_in(&self, flow: &mut Flow) {
        if !flow.is_between || flow.is_closed {
            return;
        }
        for outlet in lock(&self.joining).drain(..) {
            let others = flow.outlets.iter().map(|other| other.sink.durable_lsn()).max();
            if outlet.sink.take_in(|| self.position().max(others.unwrap_or(Lsn::ZERO))) {
                flow.outlets.push(outlet);
            }
        }
    }

    /// The highest position up to which everything was sent to the sinks that were there, or was in them before.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// How often a sink has lost its open transaction and asked for this stream again. Grows by one each time; each
    /// sink asks once until the stream has started again.
    pub fn replays_requested(&self) -> u64 {
        self.replays.load(Ordering::Acquire)
    }

    /// Bytes queued and not applied yet, in the fullest queue; `None` while the river sends.
    pub fn used_bytes_max(&self) -> Option<usize> {
        let flow = self.flow.try_lock().ok()?;
        flow.outlets.iter().map(|outlet| outlet.queue.used_bytes()).max()
    }

    /// Closes all queues; nothing can be sent or taken in afterwards. Waits while the river sends.
    pub fn close(&self) {
        let mut flow = self.flow();
        flow.is_closed = true;
        flow.outlets.clear();
        lock(&self.joining).clear();
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        lock(&self.flow)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
