//! When the engine stands still although there is something to do. Pure: it is told the time.
//!
//! Two things must move: each sink, while the server's WAL is ahead of it, and the slot, while every sink that depends on
//! it is ahead of it. A sink that fails, or cannot catch up, says so itself, and one that is paused is meant to stand
//! still. None of them excuses another: the stream goes on without a sink that holds the others up for longer than
//! `queue.patience`, of which the timeout is at least twice as long.

use std::time::{Duration, Instant};

use crate::Lsn;
use crate::fanout::progress::SinkProgress;

/// A sink this close to the WAL's end is at it: an idle server writes some small records of its own.
pub(super) const AT_END_BYTES: u64 = 256;

/// What is seen at one look.
pub(super) struct Sight {
    /// The server's WAL position.
    pub(super) wal: Lsn,
    /// What the slot has been told.
    pub(super) confirmed: Lsn,
    /// What it may be told.
    pub(super) confirmable: Lsn,
    /// The sinks that should move.
    pub(super) sinks: Vec<SinkSight>,
}

/// One sink at one look.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SinkSight {
    pub(super) name: String,
    pub(super) durable: Lsn,
    /// Parts of a transaction that has not ended move only this.
    pub(super) changes: u64,
    /// It fails, is paused, cannot catch up, or is out of action.
    pub(super) is_excused: bool,
}

impl SinkSight {
    pub(super) fn of(sink: &SinkProgress) -> Self {
        SinkSight {
            name: sink.name.clone(),
            durable: sink.durable_lsn(),
            changes: sink.changes(),
            is_excused: sink.is_paused()
                || sink.failure().is_some()
                || sink.obstacle().is_some()
                || !sink.is_running(),
        }
    }
}

/// Remembers since when nothing has moved.
#[derive(Default)]
pub(super) struct StallClock {
    slot: Still<Lsn>,
    sinks: Vec<(String, Still<(Lsn, u64)>)>,
}

/// A value, and since when it has been the same although it should not.
struct Still<T> {
    value: Option<T>,
    since: Option<Instant>,
}

impl<T> Default for Still<T> {
    fn default() -> Self {
        Still { value: None, since: None }
    }
}

impl<T: PartialEq> Still<T> {
    fn look(&mut self, now: Instant, value: T, should_move: bool) {
        let has_moved = self.value.as_ref() != Some(&value);
        if has_moved || !should_move {
            self.since = None;
        }
        if should_move {
            self.since.get_or_insert(now);
        }
        self.value = Some(value);
    }

    fn span(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

impl StallClock {
    /// Takes in what is seen at `now`.
    pub(super) fn look(&mut self, now: Instant, sight: &Sight) {
        self.slot.look(now, sight.confirmed, sight.confirmed < sight.confirmable);
        self.sinks.retain(|(name, _)| sight.sinks.iter().any(|sink| sink.name == *name));
        for sink in &sight.sinks {
            let at = match self.sinks.iter().position(|(name, _)| *name == sink.name) {
                Some(at) => at,
                None => {
                    self.sinks.push((sink.name.clone(), Still::default()));
                    self.sinks.len() - 1
                }
            };
            let is_behind = sight.wal.0.saturating_sub(sink.durable.0) > AT_END_BYTES;
            self.sinks[at].1.look(now, (sink.durable, sink.changes), is_behind && !sink.is_excused);
        }
    }

    /// Begins anew: nothing could be seen.
    pub(super) fn reset(&mut self) {
        *self = StallClock::default();
    }

    /// What has stood still for at least `limit`, each in a sentence.
    pub(super) fn stalled(&self, now: Instant, limit: Duration) -> Vec<(String, String)> {
        let mut stalled = Vec::new();
        let sentence =
            |span: Duration, what: &str| format!("has not moved for {} s although {what}", span.as_secs());
        let span = self.slot.span(now);
        if span >= limit {
            stalled.push(("slot".to_owned(), sentence(span, "every sink is ahead of it")));
        }
        for (name, still) in &self.sinks {
            let span = still.span(now);
            if span >= limit {
                stalled.push((format!("sink {name}"), sentence(span, "the source's WAL is ahead of it")));
            }
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn sink(name: &str, durable: u64) -> SinkSight {
        SinkSight { name: name.to_owned(), durable: Lsn(durable), changes: 0, is_excused: false }
    }

    fn sight(wal: u64, confirmed: u64, sinks: &[SinkSight]) -> Sight {
        let confirmable = sinks.iter().map(|sink| sink.durable).min().unwrap_or(Lsn::ZERO);
        Sight { wal: Lsn(wal), confirmed: Lsn(confirmed), confirmable, sinks: sinks.to_vec() }
    }

    /// Looks every ten seconds for two minutes at what `see` shows, and returns what has stalled.
    fn after_two_minutes(see: impl Fn(u64) -> Sight) -> Vec<String> {
        let (start, mut clock) = (Instant::now(), StallClock::default());
        for round in 0..=12 {
            clock.look(start + Duration::from_secs(10 * round), &see(round));
        }
        let stalled = clock.stalled(start + Duration::from_secs(120), LIMIT);
        stalled.into_iter().map(|(subject, _)| subject).collect()
    }

    #[test]
    fn who_moves_or_has_nothing_to_do_has_not_stalled() {
        assert!(after_two_minutes(|round| sight(10_000 + round, round, &[sink("eu", round)])).is_empty());
        assert!(after_two_minutes(|_| sight(10_100, 10_000, &[sink("eu", 10_000)])).is_empty());
        let inside_a_transaction = |round| sight(10_000, 0, &[SinkSight { changes: round, ..sink("eu", 0) }]);
        assert!(after_two_minutes(inside_a_transaction).is_empty());
    }

    #[test]
    fn who_stands_still_behind_the_wal_has_stalled_whatever_the_others_do() {
        let see = |round| sight(10_000 + round * 1_000, 0, &[sink("eu", 1_000 + round), sink("na", 0)]);
        assert_eq!(after_two_minutes(see), ["sink na"]);
        // Once it moves, all is well.
        let see = |round| sight(10_000, 0, &[sink("eu", if round == 12 { 9_999 } else { 0 })]);
        assert!(!after_two_minutes(see).contains(&"sink eu".to_owned()));
    }

    #[test]
    fn a_slot_that_is_not_told_what_the_sinks_have_has_stalled() {
        assert_eq!(after_two_minutes(|_| sight(1_000, 10, &[sink("eu", 1_000)])), ["slot"]);
    }

    #[test]
    fn a_sink_that_fails_or_is_paused_is_excused_and_excuses_nobody_else() {
        let na = SinkSight { is_excused: true, ..sink("na", 0) };
        assert!(after_two_minutes(|round| sight(10_000, 0, &[sink("eu", round), na.clone()])).is_empty());
        assert_eq!(after_two_minutes(|_| sight(10_000, 0, &[sink("eu", 10), na.clone()])), ["sink eu"]);
    }

    #[test]
    fn what_was_not_seen_is_not_held_against_anybody() {
        let (start, mut clock) = (Instant::now(), StallClock::default());
        let still = sight(10_000, 0, &[sink("eu", 0)]);
        clock.look(start, &still);
        clock.reset();
        clock.look(start + LIMIT, &still);
        assert!(clock.stalled(start + LIMIT, LIMIT).is_empty());
        assert_eq!(clock.stalled(start + LIMIT * 2, LIMIT).len(), 1);
    }
}
