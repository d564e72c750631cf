//! A channel bounded by bytes, not by count: a sender waits while what the receiver has not released yet is too much.
//! Blocking here is the engine's back-pressure.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

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

/// The other end is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

impl<T> Sender<T> {
    /// Sends an item that takes `bytes`, waiting for room.
    ///
    /// # Errors
    /// [`Closed`] once the receiver is gone; the item is dropped.
    pub fn send(&self, item: T, bytes: usize) -> Result<(), Closed> {
        let used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self
            .budget
            .changed
            .wait_while(used, |used| {
                !used.is_closed && used.bytes > 0 && used.bytes + bytes > self.budget.bytes_max
            })
            .unwrap_or_else(PoisonError::into_inner);
        if used.is_closed {
            return Err(Closed);
        }
        used.bytes += bytes;
        drop(used);
        self.tx.send(item).map_err(|_| Closed)
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
    pub fn try_receive(&self) -> Option<T> {
        self.rx.try_recv().ok()
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

    #[test]
    fn a_sender_waits_until_enough_bytes_are_released() {
        let (sender, receiver) = bounded(10);
        sender.send("first", 8).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| sender.send("second", 5));
            assert_eq!(receiver.receive(), Some("first"));
            // Received is not released: the memory is still held.
            assert!(receiver.try_receive().is_none());
            receiver.release(8);
            assert_eq!(receiver.receive(), Some("second"));
            assert_eq!(second.join().unwrap(), Ok(()));
        });
        assert_eq!(sender.used_bytes(), 5);
    }

    #[test]
    fn one_item_of_any_size_fits_an_empty_queue() {
        let (sender, receiver) = bounded(10);
        sender.send((), 1000).unwrap();
        assert_eq!(receiver.receive(), Some(()));
    }

    #[test]
    fn a_waiting_sender_is_told_when_the_receiver_is_gone() {
        let (sender, receiver) = bounded(1);
        sender.send((), 1).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send((), 1));
            drop(receiver);
            assert_eq!(waiting.join().unwrap(), Err(Closed));
        });
    }

    #[test]
    fn what_was_sent_before_the_sender_went_is_still_received() {
        let (sender, receiver) = bounded(10);
        sender.send(1, 1).unwrap();
        drop(sender);
        assert_eq!(receiver.receive(), Some(1));
        assert_eq!(receiver.receive(), None);
    }
}
