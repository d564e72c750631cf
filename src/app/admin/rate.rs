//! How fast a number grows, over the last looks. Pure: it is told the time.

use std::collections::VecDeque;
use std::time::Instant;

/// Looks that are remembered: at one a second, ten seconds.
const LOOKS_MAX: usize = 11;

/// A number when.
#[derive(Default)]
pub(super) struct RateClock(VecDeque<(Instant, u64)>);

impl RateClock {
    /// Notes the number at `now`.
    pub(super) fn look(&mut self, now: Instant, number: u64) {
        if self.0.len() == LOOKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, number));
    }

    /// By how much it grew a second; `None` before the second look.
    pub(super) fn per_second(&self) -> Option<f64> {
        let (&(began, first), &(ended, last)) = (self.0.front()?, self.0.back()?);
        let seconds = (ended - began).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(first) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let (start, mut clock) = (Instant::now(), RateClock::default());
        assert_eq!(clock.per_second(), None);
        for second in 0..=100 {
            clock.look(start + Duration::from_secs(second), if second < 50 { 0 } else { (second - 50) * 7 });
        }
        assert_eq!(clock.per_second(), Some(7.0));
        for second in 101..=111 {
            clock.look(start + Duration::from_secs(second), 350);
        }
        assert_eq!(clock.per_second(), Some(0.0));
    }
}
