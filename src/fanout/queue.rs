//! A channel bounded by bytes, not by count: there is no room while what the receiver has not released yet is too much.
//! Waiting for room is the engine's back-pressure; who waits, and for how long, is the sender's matter.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use crossbeam_channel as channel;

/// Makes a queue that holds up to `bytes_max`, or one single item of any size.
pub fn bounded<T>(bytes_max: usize) -> (Sender<T>, Receiver<T>) {
    let (tx, rx) = channel::unbounded();
    let budget = Arc::new(Budget { bytes_max, used: Mutex::default(), changed: Condvar::new() });
    (Sender { tx, budget: budget.clone() }, Receiver { rx, budget })
}

struct Budget {
    bytes_max: usize,
    used: Mutex<Used>,
    changed: Condvar,
}

#[derive(Default)]
struct Used {
    bytes: usize,
    is_closed: bool,
}

/// The sending end, held by the river.
pub struct Sender<T> {
    tx: channel::Sender<T>,
    budget: Arc<Budget>,
}

/// The receiving end, held by a worker. Dropping it closes the queue.
pub struct Receiver<T> {
    rx: channel::Receiver<T>,
    budget: Arc<Budget>,
}

/// How full a queue is, for whoever only looks; it keeps nothing alive.
#[derive(Clone)]
pub struct Gauge(Weak<Budget>);

impl Gauge {
    /// Bytes that were sent and not released yet; `None` once both ends are gone.
    pub fn used_bytes(&self) -> Option<usize> {
        Some(self.0.upgrade()?.used.lock().unwrap_or_else(PoisonError::into_inner).bytes)
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gauge").field(&self.used_bytes()).finish()
    }
}

/// Why an item was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no room for it now.
    Full,
    /// The receiver is gone.
    Closed,
}

/// What a look into the queue found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// The next item.
    Item(T),
    /// Nothing yet.
    Empty,
    /// Nothing, and nothing will come: the sender is gone.
    Closed,
}

impl Used {
    fn refuses(&self, bytes: usize, bytes_max: usize) -> Option<Refused> {
        match self.is_closed {
            true => Some(Refused::Closed),
            false => (self.bytes > 0 && self.bytes + bytes > bytes_max).then_some(Refused::Full),
        }
    }
}

impl<T> Sender<T> {
    /// Sends an item that takes `bytes`, if there is room for it.
    ///
    /// # Errors
    /// There is none, or the receiver is gone; the item is dropped.
    pub fn try_send(&self, item: T, bytes: usize) -> Result<(), Refused> {
        let mut used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = used.refuses(bytes, self.budget.bytes_max) {
            return Err(refused);
        }
        used.bytes += bytes;
        drop(used);
        self.tx.send(item).map_err(|_| Refused::Closed)
    }

    /// Waits until there may be room for `bytes`, or nobody to take them, but not longer than `limit`.
    pub fn wait_for_room(&self, bytes: usize, limit: Duration) {
        let used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |used: &mut Used| used.refuses(bytes, self.budget.bytes_max) == Some(Refused::Full);
        drop(self.budget.changed.wait_timeout_while(used, limit, is_full));
    }

    /// Shows how full it is.
    pub fn gauge(&self) -> Gauge {
        Gauge(Arc::downgrade(&self.budget))
    }

    /// Bytes that were sent and not released yet.
    pub fn used_bytes(&self) -> usize {
        self.budget.used.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl<T> Receiver<T> {
    /// The next item, waiting for it; `None` once the sender is gone and everything was received.
    pub fn receive(&self) -> Option<T> {
        self.rx.recv().ok()
    }

    /// The next item if it is there.
    pub fn try_receive(&self) -> Received<T> {
        match self.rx.try_recv() {
            Ok(item) => Received::Item(item),
            Err(channel::TryRecvError::Empty) => Received::Empty,
            Err(channel::TryRecvError::Disconnected) => Received::Closed,
        }
    }

    /// Gives back the room of items that are done with.
    pub fn release(&self, bytes: usize) {
        let mut used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(bytes);
        self.budget.changed.notify_one();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.budget.used.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_sender_waits_until_enough_bytes_are_released() {
        let (sender, receiver) = bounded(10);
        sender.try_send("first", 8).unwrap();
        assert_eq!(sender.try_send("second", 5), Err(Refused::Full));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                sender.wait_for_room(5, LONG);
                sender.try_send("second", 5)
            });
            assert_eq!(receiver.receive(), Some("first"));
            // Received is not released: the memory is still held.
            assert_eq!(receiver.try_receive(), Received::Empty);
            receiver.release(8);
            assert_eq!(receiver.receive(), Some("second"));
            assert_eq!(second.join().unwrap(), Ok(()));
        });
        let gauge = sender.gauge();
        assert_eq!((sender.used_bytes(), gauge.used_bytes()), (5, Some(5)));
        drop((sender, receiver));
        assert_eq!(gauge.used_bytes(), None);
    }

    #[test]
    fn one_item_of_any_size_fits_an_empty_queue() {
        let (sender, receiver) = bounded(10);
        sender.try_send((), 1000).unwrap();
        assert_eq!(receiver.receive(), Some(()));
    }

    #[test]
    fn a_wait_for_room_ends_when_the_receiver_is_gone_or_the_time_is_over() {
        let (sender, receiver) = bounded(1);
        sender.try_send((), 1).unwrap();
        sender.wait_for_room(1, Duration::ZERO);
        assert_eq!(sender.try_send((), 1), Err(Refused::Full));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.wait_for_room(1, LONG));
            drop(receiver);
            waiting.join().unwrap();
        });
        assert_eq!(sender.try_send((), 1), Err(Refused::Closed));
    }

    #[test]
    fn what_was_sent_before_the_sender_went_is_still_received() {
        let (sender, receiver) = bounded(10);
        sender.try_send(1, 1).unwrap();
        drop(sender);
        assert_eq!(receiver.try_receive(), Received::Item(1));
        assert_eq!(receiver.try_receive(), Received::Closed);
        assert_eq!(receiver.receive(), None);
    }
}
