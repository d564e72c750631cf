//! How long ago the source was where a sink is now: the lag in seconds. Pure: it is told the time.
//!
//! The source's WAL position is noted at each look. A sink's lag is the time since the WAL was first seen beyond the
//! sink's position; so it is right also where nothing that is published is written, and exact to one look.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stall::AT_END_BYTES;
use crate::Lsn;

/// Looks that are remembered; at one a second, an hour. A sink further behind has at least that lag.
const LOOKS_MAX: usize = 3_600;

/// Where the WAL was when.
#[derive(Default)]
pub(super) struct LagClock(VecDeque<(Instant, Lsn)>);

impl LagClock {
    /// Notes the WAL's position at `now`. One that went back, after a failover, starts anew.
    pub(super) fn look(&mut self, now: Instant, wal: Lsn) {
        match self.0.back() {
            Some(&(_, last)) if wal < last => self.0.clear(),
            Some(&(_, last)) if wal == last => return,
            _ => {}
        }
        if self.0.len() == LOOKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, wal));
    }

    /// How far a sink at `durable` is behind at `now`; `None` before the first look.
    pub(super) fn behind(&self, now: Instant, durable: Lsn) -> Option<Duration> {
        let &(_, last) = self.0.back()?;
        if last.0.saturating_sub(durable.0) <= AT_END_BYTES {
            return Some(Duration::ZERO);
        }
        let first_beyond = self.0.partition_point(|&(_, wal)| wal <= durable);
        self.0.get(first_beyond).map(|&(seen, _)| now.saturating_duration_since(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_time_since_the_wal_passed_the_sink() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LagClock::default();
        assert_eq!(clock.behind(start, Lsn(0)), None);
        for second in 0..10 {
            clock.look(at(second), Lsn(1_000 * second));
        }
        // The WAL rests from second 9 on, and is seen there again.
        clock.look(at(20), Lsn(9_000));
        let behind = |durable| clock.behind(at(20), Lsn(durable)).unwrap().as_secs();
        assert_eq!(behind(9_000), 0);
        assert_eq!(behind(8_900), 0);
        assert_eq!(behind(8_500), 11);
        assert_eq!(behind(3_000), 16);
        assert_eq!(behind(0), 19);
    }

    #[test]
    fn it_remembers_so_much_and_no_more() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for look in 0..2 * LOOKS_MAX as u64 {
            clock.look(start + Duration::from_secs(look), Lsn(1_000 * look));
        }
        assert_eq!(clock.0.len(), LOOKS_MAX);
        let now = start + Duration::from_secs(2 * LOOKS_MAX as u64);
        assert_eq!(clock.behind(now, Lsn(0)).unwrap().as_secs(), LOOKS_MAX as u64);
        clock.look(now, Lsn(5));
        assert_eq!(clock.behind(now, Lsn(0)), Some(Duration::ZERO));
    }
}
