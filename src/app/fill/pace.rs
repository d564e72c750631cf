//! How large a chunk is, and when the next one may follow: about as large as the slowest sink writes in a fifth of a
//! second, and not while the stream has filled the queues. A sink whose requests are counted gets no small chunks, however
//! long they take.

use std::time::Duration;

use super::Filler;
use crate::capture::chunk::ChunkLimits;

/// How long the sinks may be busy with one chunk; a change of the stream waits behind it.
const BUSY: Duration = Duration::from_millis(200);
/// A chunk is at least this large, in bytes.
const BYTES_MIN: usize = 32 << 10;
/// And not smaller than this part of the limit.
const PART_MIN: usize = 4;
/// Rows of a chunk, however short they are.
const ROWS_MAX: usize = 100_000;
/// How long a chunk's transaction may be open.
const TIME_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether the queues have room.
const POLL: Duration = Duration::from_millis(5);

/// The size of a reader's chunks.
pub(super) struct Pace {
    bytes: usize,
    bytes_max: usize,
}

impl Pace {
    pub(super) fn new(filler: &Filler) -> Self {
        let bytes_max = filler.config.chunk_max_bytes.min(filler.queue_bytes_max / 4).max(BYTES_MIN);
        Pace { bytes: bytes_max / PART_MIN, bytes_max }
    }

    pub(super) fn limits(&self, filler: &Filler) -> ChunkLimits {
        ChunkLimits {
            rows_max: ROWS_MAX,
            bytes_max: self.bytes,
            row_bytes_max: filler.row_bytes_max,
            time_max: TIME_MAX,
        }
    }

    /// The last chunk of that size kept the sinks busy for so long.
    pub(super) fn took(&mut self, bytes: usize, time: Duration) {
        if bytes == 0 {
            return;
        }
        let fitting = bytes as f64 * BUSY.as_secs_f64() / time.as_secs_f64().max(0.001);
        // Not more than twice or half of what it was, because one chunk says little.
        let next = (fitting as usize).clamp(self.bytes / 2, self.bytes * 2);
        self.bytes = next.clamp(self.bytes_max / PART_MIN, self.bytes_max);
    }
}

/// What is read only to know what a read sees.
pub(super) fn probe(filler: &Filler) -> ChunkLimits {
    ChunkLimits { rows_max: 1, bytes_max: 1, row_bytes_max: filler.row_bytes_max, time_max: TIME_MAX }
}

/// Waits while the stream needs the queues for itself. One sink that is stuck is not waited for: its own queue fills, and
/// the stream and the fill go on without it.
pub(super) async fn yield_to_stream(filler: &Filler) {
    let near = filler.queue_bytes_max / 4;
    loop {
        let is_blocked = filler.outlets.blocked_for() > Duration::ZERO;
        if !is_blocked && filler.outlets.used_bytes_min().is_none_or(|used| used <= near) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}
