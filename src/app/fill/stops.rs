//! Keeps the sinks told of tables that are gone at the source, and lets stopped tables go on by themselves where they may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Filler;
use super::job::can_take;
use super::resume::{How, goes_on_by_itself};
use super::tables::Tables;
use super::view::FillView;
use crate::Lsn;
use crate::error::Kind;
use crate::fanout::fill::{Action, FillStep, TableFill};
use crate::fanout::progress::{Progress, SinkProgress, State};
use crate::fanout::stop::Stopped;

/// How often it is looked whether a table is gone or stopped: into memory.
const LOOK: Duration = Duration::from_millis(50);
/// The longest pause between two looks at the source for one table; each is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// When a stopped table is held against the source again.
struct Next {
    at: Instant,
    pause: Duration,
}

impl Filler {
    /// Does so until it is dropped.
    pub(super) async fn keep_stops(&self, tables: &Tables) {
        let first = self.source.config.idle_checkpoint_interval.min(PAUSE_MAX);
        let mut next: BTreeMap<usize, Next> = BTreeMap::new();
        loop {
            self.tell_gone().await;
            let stopped = stopped(&self.progress);
            next.retain(|table, _| stopped.contains_key(table));
            for (table, (why, sinks)) in stopped {
                if !goes_on_by_itself(&self.plan, self.planned_at, table, &why) {
                    continue;
                }
                let due = next.entry(table).or_insert_with(|| Next { at: Instant::now(), pause: first });
                if Instant::now() < due.at {
                    continue;
                }
                if let Err(error) = self.resume(tables, table, sinks, How::default()).await {
                    tracing::debug!(table, "the table stays stopped: {}", error.chain());
                    // A source that is away says nothing about the table.
                    if error.kind() != Kind::Transient {
                        self.view.set_failure(table, Some(&error));
                    }
                }
                (due.at, due.pause) = (Instant::now() + due.pause, (due.pause * 2).min(PAUSE_MAX.max(first)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells sinks that take the main stream of tables that are gone, also those that are slow or paused: it stands in
    /// their queues before whatever another table of that name brings.
    async fn tell_gone(&self) {
        for (table, stopped, sinks) in untold(&self.view, &self.progress) {
            let names = sinks.iter().map(|sink| sink.name.clone()).collect();
            let (gate, action) = (self.gate.clone(), Action::Stop { stopped, sinks: Some(names) });
            let sending = tokio::task::spawn_blocking(move || {
                gate.send_step(|| FillStep { table, action, sent_at: Lsn::ZERO, receipt: None })
            });
            if let Ok(true) = sending.await {
                self.view.told(table, &sinks);
            }
        }
    }
}

/// Why tables are stopped in sinks that take the main stream, and in which.
pub fn stopped(progress: &Progress) -> BTreeMap<usize, (Stopped, Vec<String>)> {
    let mut stopped: BTreeMap<usize, (Stopped, Vec<String>)> = BTreeMap::new();
    for sink in progress.sinks().iter().filter(|sink| can_take(sink)) {
        sink.look_at_fills(|fills| {
            let why = |fill: &TableFill| fill.stopped.clone().filter(|_| !fill.is_left);
            for (table, fill) in fills.0.iter().enumerate() {
                let Some(why) = fill.as_ref().and_then(why) else { continue };
                let (latest, sinks) = stopped.entry(table).or_insert_with(|| (why.clone(), Vec::new()));
                if why.since > latest.since {
                    *latest = why;
                }
                sinks.push(sink.name.clone());
            }
        });
    }
    stopped
}

/// The tables that are gone, and the sinks that take the main stream and have not been told.
pub fn untold(view: &FillView, progress: &Progress) -> Vec<(usize, Stopped, Vec<Arc<SinkProgress>>)> {
    let sinks = progress.sinks();
    let of = |(table, stopped)| {
        let takers = sinks.iter().filter(|sink| sink.state() == State::Attached);
        let untold = takers.filter(|sink| !view.is_told(table, sink));
        (table, stopped, untold.cloned().collect::<Vec<_>>())
    };
    view.gone().into_iter().map(of).filter(|(_, _, sinks)| !sinks.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_put_in_anew_under_its_name_is_told_again() {
        let (view, before) = (FillView::default(), SinkProgress::new("eu"));
        let progress = Progress::new(vec![before.clone()]);
        let (reason, hint) = ("it is gone".to_owned(), "create it".to_owned());
        view.set_gone(0, Stopped { reason, hint, since: Lsn(5), returns: true });
        let told = |progress: &Progress| {
            let untold = untold(&view, progress);
            untold.iter().for_each(|(table, _, sinks)| view.told(*table, sinks));
            untold.len()
        };
        assert_eq!((told(&progress), told(&progress)), (1, 0));
        // What stood in the queue of the one before is lost.
        progress.set_sinks(vec![SinkProgress::new("eu")]);
        assert_eq!((told(&progress), told(&progress)), (1, 0));
    }
}
