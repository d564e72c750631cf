//! How much a sink is to blame for the others' idleness: a leaky bucket that decides when the stream goes on without it.
//! Pure: time is given.
//!
//! It fills while the stream waits for room in this sink's queue *and* another sink has nothing to do, and it drains at
//! the same rate at all other times. A sink that takes `r` times the fastest one's pace lets that one starve for `1 - r`
//! of the time under full load. So the bucket of a sink that is more than half as fast as the fastest never fills up,
//! one that is stuck fills it in exactly the patience, and sinks that all wait for the same thing blame nobody.

use std::time::{Duration, Instant};

/// The bucket of one sink.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blame {
    level: Duration,
    /// Up to when it is accounted for.
    until: Option<Instant>,
}

impl Blame {
    /// Adds a wait of `waited` that ended at `now`, and returns what the blame is then.
    pub fn add(&mut self, now: Instant, waited: Duration) -> Duration {
        let passed = self.until.map_or(waited, |until| now.saturating_duration_since(until));
        self.level = self.level.saturating_sub(passed.saturating_sub(waited)) + waited;
        self.until = Some(now);
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// After how many seconds of waits of `waited_ms` in every 10 ms the patience is over, if within an hour.
    fn patience_ends(waited_ms: u64) -> Option<f64> {
        let (start, mut blame) = (Instant::now(), Blame::default());
        (1..360_000).find_map(|round| {
            let passed = Duration::from_millis(10 * round);
            let level = blame.add(start + passed, Duration::from_millis(waited_ms));
            (level >= PATIENCE).then_some(passed.as_secs_f64())
        })
    }

    #[test]
    fn a_stuck_sink_is_left_behind_after_the_patience() {
        assert_eq!(patience_ends(10), Some(2.0));
    }

    #[test]
    fn a_sink_that_is_more_than_half_as_fast_as_the_fastest_is_never_left_behind() {
        assert_eq!(patience_ends(0), None);
        assert_eq!(patience_ends(4), None);
        assert_eq!(patience_ends(5), None);
        assert!(patience_ends(6).is_some_and(|seconds| (9.0..11.0).contains(&seconds)));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let (start, mut blame) = (Instant::now(), Blame::default());
        let almost = PATIENCE - Duration::from_millis(1);
        assert_eq!(blame.add(start, almost), almost);
        let later = start + Duration::from_secs(60);
        assert_eq!(blame.add(later, Duration::from_millis(2)), Duration::from_millis(2));
    }
}
