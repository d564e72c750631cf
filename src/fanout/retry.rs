//! Retry policy: what an error's kind means to a sink's worker, and how long it waits. Pure.

use std::time::Duration;

use crate::error::Kind;

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub initial: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

/// What a worker does after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send the same again after a wait.
    Retry(Duration),
    /// Ask for the stream again from the checkpoint.
    Replay,
    /// Stop this sink; the others go on.
    Stop,
}

/// Decides by the error's kind and by how many attempts failed before.
pub fn decide(kind: Kind, attempt: u32, backoff: Backoff, rng: &mut fastrand::Rng) -> Decision {
    match kind {
        Kind::Transient => Decision::Retry(full_jitter(attempt, backoff, rng)),
        Kind::Throttled { retry_after } => Decision::Retry(retry_after + full_jitter(attempt, backoff, rng)),
        Kind::Replay => Decision::Replay,
        Kind::Rejected | Kind::NeedsBackfill | Kind::Replaced | Kind::Halt | Kind::Config | Kind::Bug => {
            Decision::Stop
        }
    }
}

/// A wait between nothing and the exponentially growing limit, so that sinks that failed together do not retry
/// together.
pub fn full_jitter(attempt: u32, backoff: Backoff, rng: &mut fastrand::Rng) -> Duration {
    let limit = backoff.initial.saturating_mul(2u32.saturating_pow(attempt.min(30))).min(backoff.max);
    limit.mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(30) };

    #[test]
    fn waits_grow_and_stay_below_the_limit() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mean = |attempt, rng: &mut fastrand::Rng| {
            (0..500).map(|_| full_jitter(attempt, BACKOFF, rng)).sum::<Duration>() / 500
        };
        let (first, fifth) = (mean(0, &mut rng), mean(5, &mut rng));
        assert!(first < Duration::from_millis(50) && fifth > first * 8, "{first:?} {fifth:?}");
        assert!((0..1000).all(|attempt| full_jitter(attempt, BACKOFF, &mut rng) <= BACKOFF.max));
    }

    #[test]
    fn a_throttled_sink_never_retries_before_it_may() {
        let mut rng = fastrand::Rng::with_seed(7);
        let kind = Kind::Throttled { retry_after: Duration::from_secs(60) };
        for attempt in 0..100 {
            let Decision::Retry(wait) = decide(kind, attempt, BACKOFF, &mut rng) else { panic!("retries") };
            assert!(wait >= Duration::from_secs(60));
        }
    }

    #[test]
    fn what_only_an_operator_can_resolve_stops_the_sink() {
        let mut rng = fastrand::Rng::with_seed(7);
        for kind in [Kind::Rejected, Kind::NeedsBackfill, Kind::Replaced, Kind::Halt, Kind::Config, Kind::Bug]
        {
            assert_eq!(decide(kind, 0, BACKOFF, &mut rng), Decision::Stop);
        }
        assert_eq!(decide(Kind::Replay, 0, BACKOFF, &mut rng), Decision::Replay);
    }
}
