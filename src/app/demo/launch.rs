//! Starting a server whose port may be taken: how one attempt ended, and attempts until one succeeds.

use std::time::{Duration, Instant};

use crate::error::Result;

/// How one attempt to start a server ended, where that is no error.
pub(super) enum Launch {
    /// It accepts connections.
    Ready,
    /// Its port, or what a killed predecessor held, is still taken: worth another try.
    Busy,
}

/// Tries again and again, with pauses, until it is ready; false where it is still busy after `patience`.
pub(super) fn until_ready(
    patience: Duration,
    pause: Duration,
    mut launch: impl FnMut() -> Result<Launch>,
) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match launch()? {
            Launch::Ready => return Ok(true),
            Launch::Busy if Instant::now() < deadline => std::thread::sleep(pause),
            Launch::Busy => return Ok(false),
        }
    }
}
