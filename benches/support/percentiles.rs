//! What many measured times come to.

use std::time::Duration;

/// The given shares of the times, each in milliseconds: 0.5 for the median, 1.0 for the most. NaN without any.
pub fn percentiles<const N: usize>(times: &mut [Duration], shares: [f64; N]) -> [f64; N] {
    times.sort_unstable();
    shares.map(|share| {
        let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    })
}
