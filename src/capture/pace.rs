//! How long the stream's reader naps between two reads. It never reads.
//!
//! A walsender sends every message by itself. A reader that takes each at once makes the two wake each other a million
//! times, and over TCP the pieces never join: a third of the server's rate at several times its CPU. So while a backlog
//! flows, the reader naps just long enough that the socket is nearly full when it reads, and never so long that the
//! server stands still. The first bytes after a silence are taken at once, and a live load is napped over only briefly.

use std::time::Duration;

/// The shortest nap that is worth a system call.
const NAP_MIN: Duration = Duration::from_micros(50);
/// The longest nap while what comes is not a backlog: a tenth of what a commit takes.
const NAP_LIVE: Duration = Duration::from_micros(200);
/// Less than this per second is a live load.
const BACKLOG_BYTES_PER_SECOND: f64 = 8e6;
/// Bytes that come after a pause longer than this, and the nap, come after a silence.
const SILENCE: Duration = Duration::from_millis(2);

/// What a kind of socket needs.
#[derive(Debug, Clone, Copy)]
pub struct PaceOptions {
    /// The longest nap.
    pub nap_max: Duration,
    /// A read of at least this many bytes means that the nap was long enough.
    pub read_long: usize,
    /// Whether a read goes on until nothing is left, instead of leaving what comes meanwhile to grow.
    pub is_drained: bool,
}

impl PaceOptions {
    /// TCP from a near server: 100,000 bytes are nearly what its receive buffer holds.
    pub const TCP: PaceOptions =
        PaceOptions { nap_max: Duration::from_millis(4), read_long: 100_000, is_drained: false };
    /// TLS hands on one record of at most 16 KiB at a time.
    pub const TLS: PaceOptions =
        PaceOptions { nap_max: Duration::from_millis(1), read_long: 64 * 1024, is_drained: true };
    /// A unix socket holds a few hundred messages, which the server has sent in half a millisecond.
    pub const UNIX: PaceOptions = PaceOptions { nap_max: NAP_LIVE, read_long: 64 * 1024, is_drained: false };
}

/// The nap, adapted after every read.
#[derive(Debug)]
pub struct Pace {
    options: PaceOptions,
    nap: Duration,
}

impl Pace {
    /// Starts without a nap.
    pub fn new(options: PaceOptions) -> Self {
        Pace { options, nap: Duration::ZERO }
    }

    /// The nap before the next read, if it is worth one.
    pub fn nap(&self) -> Option<Duration> {
        (self.nap >= NAP_MIN).then_some(self.nap)
    }

    /// Takes a read of `bytes` into account, `since` the read before it, nap included.
    pub fn adapt(&mut self, bytes: usize, since: Duration) {
        let longer = self.nap.max(NAP_MIN).mul_f64(1.3);
        self.nap = if bytes >= self.options.read_long {
            self.nap.mul_f64(0.95)
        } else if since >= self.nap + SILENCE {
            Duration::ZERO
        } else if (bytes as f64) < since.as_secs_f64() * BACKLOG_BYTES_PER_SECOND {
            longer.min(NAP_LIVE)
        } else {
            longer.min(self.options.nap_max)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a server that sends `rate` bytes per second into a socket that holds `room`, for a second.
    /// Returns the pace, the reads, and the share of the time in which the socket was full.
    fn read_from(options: PaceOptions, rate: f64, room: f64) -> (Pace, usize, f64) {
        let mut pace = Pace::new(options);
        let (mut elapsed, mut full, mut reads) = (0.0, 0.0, 0);
        while elapsed < 1.0 {
            let since = pace.nap().unwrap_or_default().as_secs_f64() + 20e-6;
            let bytes = (rate * since).min(room);
            full += since - bytes / rate;
            elapsed += since;
            reads += 1;
            pace.adapt(bytes as usize, Duration::from_secs_f64(since));
        }
        (pace, reads, full)
    }

    #[test]
    fn a_backlog_is_read_in_long_pieces_and_the_server_hardly_waits() {
        let (_, reads, full) = read_from(PaceOptions::TCP, 60e6, 128e3);
        assert!(reads < 1000, "{reads} reads");
        assert!(full < 0.05, "the socket was full {full} of the time");
    }

    #[test]
    fn a_backlog_over_a_small_socket_does_not_stop_the_server_for_long() {
        let (pace, _, _) = read_from(PaceOptions::UNIX, 60e6, 50e3);
        assert!(pace.nap().unwrap() <= NAP_LIVE);
    }

    #[test]
    fn a_live_load_is_napped_over_only_briefly() {
        let (pace, _, _) = read_from(PaceOptions::TCP, 1e6, 128e3);
        assert_eq!(pace.nap(), Some(NAP_LIVE));
    }

    #[test]
    fn after_a_silence_the_first_bytes_are_taken_at_once() {
        let (mut pace, _, _) = read_from(PaceOptions::TCP, 60e6, 128e3);
        assert!(pace.nap().is_some());
        pace.adapt(500, Duration::from_millis(20));
        assert_eq!(pace.nap(), None);
    }
}
