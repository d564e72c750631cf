//! The end of the threads beside a benchmark.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says that it is over when it is dropped, also by a panic, so that the others end too.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
