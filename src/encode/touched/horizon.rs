//! Which transactions every open and every future chunk sees. Shared between the readers, which open chunks, and the
//! river, which prunes its log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::capture::snapshot::ReadPoint;

/// The read points that chunks start from. Cloning it gives another handle on the same one.
#[derive(Debug, Clone)]
pub struct Horizon(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// The newest read point known: whatever is read later sees all that it sees.
    newest: ReadPoint,
    /// For each open chunk, in the order in which they were opened: the newest read point at that moment.
    open: BTreeMap<u64, ReadPoint>,
    next: u64,
}

/// An open chunk. It is open until the ticket is dropped, with its chunk decided or given up.
#[derive(Debug)]
pub struct Ticket {
    horizon: Horizon,
    number: u64,
}

impl Horizon {
    /// A horizon that begins with a read that saw everything that was delivered before it, as
    /// [`InDoubt`](crate::capture::chunk::InDoubt) tells. All later reads must be of the same server.
    pub fn new(first: ReadPoint) -> Self {
        Horizon(Arc::new(Mutex::new(Inner { newest: first, open: BTreeMap::new(), next: 0 })))
    }

    /// Opens a chunk. Call it before the chunk's transaction begins.
    pub fn open(&self) -> Ticket {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let newest = inner.newest.clone();
        inner.open.insert(number, newest);
        Ticket { horizon: self.clone(), number }
    }

    /// Whether this read point can be held against those that are known: of a primary as they are, or of a standby.
    pub fn is_of_the_same_kind(&self, read_point: &ReadPoint) -> bool {
        std::mem::discriminant(&self.lock().newest) == std::mem::discriminant(read_point)
    }

    /// A read point that sees nothing which some open or future chunk does not see.
    pub fn floor(&self) -> ReadPoint {
        let inner = self.lock();
        // They were opened in the order of the newest read points, so the first has the oldest.
        inner.open.values().next().unwrap_or(&inner.newest).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Tells what the chunk saw, as soon as that is known. False where it lacks something that reads had seen before
    /// it was opened: then it came from another server, which lags behind, and must be given up.
    #[must_use]
    pub fn saw(&self, read_point: &ReadPoint) -> bool {
        let mut inner = self.horizon.lock();
        let is_sound = inner.open.get(&self.number).is_some_and(|floor| read_point.sees_all_of(floor));
        if is_sound && read_point.sees_all_of(&inner.newest) {
            inner.newest = read_point.clone();
        }
        is_sound
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.horizon.lock().open.remove(&self.number);
    }
}
