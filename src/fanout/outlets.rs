//! A river's end of its sinks' queues. What it sends goes to all of them; here is decided when it goes on without one
//! that is too slow, and where that one comes back.
//!
//! **Leaving.** While there is no room in a sink's queue, all wait. A sink that makes others wait that have nothing left
//! to do gathers [`Blame`]; beyond the patience its queue is closed and the stream goes on. What is in the queue stays
//! in it. One that is paused, or has been failing for as long as that, had its time already, and nobody waits for it.
//! So a sink for which nobody waits never leaves, nor do sinks that are all slow, nor one that is merely slower.
//!
//! **Joining.** A sink that has caught up is taken in between two transactions: everything behind that position goes to
//! its new queue, everything up to it comes from its own stream. See `SinkProgress::take_in`.
//!
//! **Coming back.** A sink that left and can have no stream of its own asks for this one again, once it has drained:
//! its slot still holds everything that it lacks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::blame::Blame;
use super::chain::{Inlet, Line};
use super::delivery::Delivery;
use super::progress::SinkProgress;
use super::queue::{self, Refused, Sender};
use crate::Lsn;

/// How long a wait for room is before the other queues are looked at: short against any patience, long against a look.
const WAIT: Duration = Duration::from_millis(5);

/// One river's queues.
pub struct Outlets {
    flow: Mutex<Flow>,
    /// Sinks that are to be taken in at the next end of a transaction.
    joining: Mutex<Vec<Outlet>>,
    /// Sinks that go on from where the stream starts again.
    returning: Mutex<Vec<Outlet>>,
    /// The highest position up to which everything was sent, or was in a sink before.
    position: AtomicU64,
    /// Deliveries that ended a transaction.
    ended: AtomicU64,
    replays: Arc<AtomicU64>,
    /// Nothing more is sent, and who waits for room need not.
    is_closed: AtomicBool,
    /// Since when the river waits for room.
    blocked_since: Mutex<Option<Instant>>,
    patience: Duration,
    left: mpsc::UnboundedSender<Arc<SinkProgress>>,
}

/// What the river holds while it sends.
#[derive(Default)]
struct Flow {
    outlets: Vec<Outlet>,
    /// What was sent last ended a transaction.
    is_between: bool,
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

impl Outlet {
    /// By identity: one of the same name may have been taken out, and not be gone yet.
    fn is_of(&self, sink: &SinkProgress) -> bool {
        std::ptr::eq(&*self.sink, sink)
    }

    /// Puts it into the queue, if there is room.
    fn put(&self, delivery: &Delivery, bytes: usize) -> Result<(), Refused> {
        self.queue.try_send(delivery.clone(), bytes)?;
        if matches!(delivery, Delivery::Fill(step) if !step.comes_first()) {
            self.sink.fill_step_sent();
        }
        Ok(())
    }
}

impl Outlets {
    /// Outlets without a queue yet. The receiver is told of every sink that was attached and is left behind because it
    /// exhausted the `patience`.
    pub fn new(patience: Duration) -> (Self, mpsc::UnboundedReceiver<Arc<SinkProgress>>) {
        let (left, leaving) = mpsc::unbounded_channel();
        let outlets = Outlets {
            flow: Mutex::default(),
            joining: Mutex::default(),
            returning: Mutex::default(),
            position: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            replays: Arc::default(),
            is_closed: AtomicBool::new(false),
            blocked_since: Mutex::default(),
            patience,
            left,
        };
        (outlets, leaving)
    }

    /// Makes a queue for a sink that holds up to `bytes_max`.
    pub fn queue(&self, sink: &Arc<SinkProgress>, bytes_max: usize) -> (Outlet, Inlet) {
        let (queue, receiver) = queue::bounded(bytes_max);
        sink.add_queue(queue.gauge());
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

    /// Asks for the stream again and sends to this queue from its start, for a sink that has left, has
    /// [drained](SinkProgress::has_drained), and depends on this stream's slot: it is attached then.
    pub fn come_back(&self, outlet: Outlet) {
        lock(&self.returning).push(outlet);
        self.replays.fetch_add(1, Ordering::Release);
    }

    /// Whether the stream has not started again yet since [`Outlets::come_back`].
    pub fn is_returning(&self, sink: &SinkProgress) -> bool {
        lock(&self.returning).iter().any(|outlet| outlet.is_of(sink))
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
        self.send_in(&mut self.flow(), delivery);
    }

    /// Makes deliveries and sends them, if the river is between two transactions; says whether it is.
    pub fn send_between(&self, make: impl FnOnce() -> Vec<Delivery>) -> bool {
        let mut flow = self.flow();
        let is_between = flow.is_between;
        if is_between {
            make().iter().for_each(|delivery| self.send_in(&mut flow, delivery));
        }
        is_between
    }

    fn send_in(&self, flow: &mut Flow, delivery: &Delivery) {
        let bytes = delivery.bytes();
        if matches!(delivery, Delivery::Restart) && !self.is_closed.load(Ordering::Acquire) {
            flow.outlets.extend(lock(&self.returning).drain(..).filter(|outlet| outlet.sink.come_back()));
        }
        let mut waits = false;
        flow.outlets.retain_mut(|outlet| {
            if outlet.sink.is_retired() {
                return false;
            }
            let sent = outlet.put(delivery, bytes);
            outlet.waits = sent == Err(Refused::Full);
            waits |= outlet.waits;
            sent != Err(Refused::Closed)
        });
        if waits {
            *lock(&self.blocked_since) = Some(Instant::now());
            while self.wait(&mut flow.outlets, delivery, bytes) {}
            *lock(&self.blocked_since) = None;
        }
        if matches!(delivery, Delivery::Fill(_)) {
            return;
        }
        let end_lsn = delivery.end_lsn();
        flow.is_between = end_lsn.is_some();
        if let Some(end_lsn) = end_lsn {
            if matches!(delivery, Delivery::Run(_)) {
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
            self.position.fetch_max(end_lsn.0, Ordering::AcqRel);
            self.take_in(flow);
        }
    }

    /// Waits for room a little, then tries again wherever there was none. True if there still is a queue without room.
    fn wait(&self, outlets: &mut Vec<Outlet>, delivery: &Delivery, bytes: usize) -> bool {
        let started = Instant::now();
        if let Some(full) = outlets.iter().find(|outlet| outlet.waits) {
            full.queue.wait_for_room(bytes, WAIT.min(self.patience));
        }
        let now = Instant::now();
        if self.is_closed.load(Ordering::Acquire) {
            outlets.clear();
        }
        let is_idle = |outlet: &Outlet| !outlet.waits && outlet.queue.used_bytes() == 0;
        // A sink that waits to be taken in has nothing to do either.
        let starves = outlets.iter().any(is_idle) || !lock(&self.joining).is_empty();
        let mut waits = false;
        outlets.retain_mut(|outlet| {
            if outlet.sink.is_retired() {
                return false;
            }
            if !outlet.waits {
                return true;
            }
            if starves {
                let blame = outlet.blame.add(now, now - started);
                if blame >= self.patience || outlet.sink.takes_nothing(self.patience) {
                    self.leave_behind(outlet);
                    return false;
                }
            }
            let sent = outlet.put(delivery, bytes);
            outlet.waits = sent == Err(Refused::Full);
            waits |= outlet.waits;
            sent != Err(Refused::Closed)
        });
        waits
    }

    /// Goes on without the sink at once, as if it had exhausted the patience.
    pub fn leave(&self, sink: &SinkProgress) {
        self.flow().outlets.retain(|outlet| {
            let is_left = outlet.is_of(sink);
            if is_left {
                self.leave_behind(outlet);
            }
            !is_left
        });
    }

    /// Closes the queues of sinks that were taken out, if the river rests. A river that flows does so by itself.
    pub fn let_go(&self) {
        let stays = |outlet: &Outlet| !outlet.sink.is_retired();
        lock(&self.joining).retain(stays);
        lock(&self.returning).retain(stays);
        if let Ok(mut flow) = self.flow.try_lock() {
            flow.outlets.retain(stays);
        }
    }

    fn leave_behind(&self, outlet: &Outlet) {
        outlet.line.cut();
        let was_attached = outlet.sink.leave(self.position());
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
        if !flow.is_between || self.is_closed.load(Ordering::Acquire) {
            return;
        }
        for outlet in lock(&self.joining).drain(..) {
            let others = flow.outlets.iter().map(|other| other.sink.durable_lsn()).max();
            if outlet.sink.take_in(|| self.position().max(others.unwrap_or(Lsn::ZERO))) {
                tracing::info!(sink = outlet.sink.name, lsn = %self.position(), "the sink takes the main stream again");
                flow.outlets.push(outlet);
            }
        }
    }

    /// The highest position up to which everything was sent to the sinks that were there, or was in them before.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// How often something was sent that ended a transaction. Grows.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether what was sent last ended a transaction, or nothing was sent yet; false while the river sends.
    pub fn is_between(&self) -> bool {
        self.flow.try_lock().is_ok_and(|flow| flow.is_between)
    }

    /// How often a sink has lost its open transaction and asked for this stream again. Grows by one each time; each
    /// sink asks once until the stream has started again.
    pub fn replays_requested(&self) -> u64 {
        self.replays.load(Ordering::Acquire)
    }

    /// How long the river has been waiting for room.
    pub fn blocked_for(&self) -> Duration {
        lock(&self.blocked_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bytes queued and not applied yet, in the fullest queue; `None` while the river sends.
    pub fn used_bytes_max(&self) -> Option<usize> {
        let flow = self.flow.try_lock().ok()?;
        flow.outlets.iter().map(|outlet| outlet.queue.used_bytes()).max()
    }

    /// The same in the emptiest queue.
    pub fn used_bytes_min(&self) -> Option<usize> {
        let flow = self.flow.try_lock().ok()?;
        flow.outlets.iter().map(|outlet| outlet.queue.used_bytes()).min()
    }

    /// Closes all queues; nothing can be sent or taken in afterwards. A river that waits for room gives up.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.flow().outlets.clear();
        lock(&self.joining).clear();
        lock(&self.returning).clear();
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        lock(&self.flow)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
