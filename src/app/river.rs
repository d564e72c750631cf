//! The river: one plain thread that decodes and maps, between the socket and the sinks.
//!
//! Enters: frame runs of one session. Leaves: deliveries to every sink of its outlets. Blocking on a full queue is the
//! back-pressure that finally slows the server down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::fill::gate::{self, Gate};
use crate::Lsn;
use crate::capture::frame::FrameRun;
use crate::capture::haste::Haste;
use crate::decode::{Decoder, Event};
use crate::encode::current::CurrentPlan;
use crate::encode::mapper::{Mapper, OlderForms};
use crate::encode::plan::Plan;
use crate::encode::run::{ChangeKind, Run};
use crate::error::Result;
use crate::fanout::delivery::Delivery;
use crate::fanout::outlets::Outlets;
use crate::telemetry::ChangeCounters;

/// The kinds of change as the metrics name them, in the order of [`ChangeKind`].
const OPERATIONS: [&str; 6] = ["upsert", "update", "delete", "move", "truncate", "reject"];
const _: () = assert!(ChangeKind::Reject as usize + 1 == OPERATIONS.len());

/// How the river cuts and forwards.
#[derive(Debug, Clone)]
pub struct RiverOptions {
    /// A larger transaction travels in parts of about this size.
    pub part_bytes_max: usize,
    /// Idle positions go to the sinks at most this often.
    pub idle_interval: Duration,
    /// Every sink has what was committed before this.
    pub needed_from: Lsn,
    /// Tables that may come in the form that they had.
    pub older: OlderForms,
}

/// Decodes and maps one session's frames until the channel closes. Only the main stream has a gate, and is counted by
/// the metrics: others would count twice. `haste`: an idle position that somebody waits for goes to the sinks at once.
///
/// # Errors
/// What the decoder says; nothing that was not delivered whole is confirmed.
pub fn run(
    mut frames: mpsc::Receiver<FrameRun>,
    current: Arc<CurrentPlan>,
    outlets: Arc<Outlets>,
    gate: Option<Arc<Gate>>,
    options: RiverOptions,
    haste: Haste,
) -> Result<()> {
    outlets.send(&Delivery::Restart);
    let plan = current.plan();
    let tables = plan.tables.iter().map(|table| table.source.plain());
    let counters = gate.is_some().then(|| ChangeCounters::new(tables, OPERATIONS));
    let river = River::of(current, outlets, options).with_gate(gate);
    let mut river = River { counters, haste: Some(haste), ..river };
    while let Some(run) = frames.blocking_recv() {
        river.flow(&run)?;
    }
    Ok(())
}

/// The river without its thread, for whoever drives it step by step.
pub struct River {
    decoder: Decoder,
    mapper: Mapper,
    outlets: Arc<Outlets>,
    /// Where chunks of fills come in.
    gate: Option<Arc<Gate>>,
    options: RiverOptions,
    idle_sent: Option<(Lsn, Instant)>,
    counters: Option<ChangeCounters<{ OPERATIONS.len() }>>,
    haste: Option<Haste>,
}

impl River {
    /// A river for a new session.
    pub fn new(plan: Arc<Plan>, outlets: Arc<Outlets>, options: RiverOptions) -> Self {
        River::of(Arc::new(CurrentPlan::new(plan)), outlets, options)
    }

    /// The same where the plan may be renewed.
    pub fn of(current: Arc<CurrentPlan>, outlets: Arc<Outlets>, options: RiverOptions) -> Self {
        River {
            decoder: Decoder::new(),
            mapper: Mapper::of(current, options.part_bytes_max, options.needed_from)
                .with_older_forms(options.older.clone()),
            outlets,
            gate: None,
            options,
            idle_sent: None,
            counters: None,
            haste: None,
        }
    }

    /// The same in front of a gate.
    pub fn with_gate(self, gate: Option<Arc<Gate>>) -> Self {
        River { gate, ..self }
    }

    /// Decodes, maps and delivers what one read brought. Also before an error, every transaction that ended is
    /// delivered: how far the sinks come does not depend on how the socket was read.
    ///
    /// # Errors
    /// See [`run`].
    pub fn flow(&mut self, frames: &FrameRun) -> Result<()> {
        let idle = match self.decode(frames) {
            Ok(idle) => idle,
            Err(error) => {
                if let Some(run) = self.mapper.take_ended() {
                    self.send_run(run);
                }
                return Err(error);
            }
        };
        if let Some(run) = self.mapper.take_whole() {
            self.send_run(run);
        }
        if let Some(wal_end) = idle {
            self.idle(wal_end);
        }
        Ok(())
    }

    /// Decodes and maps, and delivers what has become large. Returns the idle position where the frames end with one.
    fn decode(&mut self, frames: &FrameRun) -> Result<Option<Lsn>> {
        let mut idle = None;
        for frame in frames.iter() {
            match self.decoder.decode(frame?)? {
                None => {}
                Some(Event::Idle { wal_end }) => idle = Some(wal_end),
                Some(event) => {
                    idle = None;
                    self.mapper.map(event);
                    if let Some(run) = self.mapper.take_full() {
                        self.send_run(run);
                    }
                }
            }
        }
        Ok(idle)
    }

    fn idle(&mut self, wal_end: Lsn) {
        let now = Instant::now();
        let is_due = match self.idle_sent {
            None => true,
            Some((lsn, at)) => {
                let is_hasty = || self.haste.as_ref().is_some_and(Haste::is_on);
                wal_end > lsn && (now - at >= self.options.idle_interval || is_hasty())
            }
        };
        if is_due {
            self.idle_sent = Some((wal_end, now));
            self.outlets.send(&Delivery::Idle(wal_end));
        }
    }

    fn send_run(&mut self, run: Run) {
        if let Some(counters) = &mut self.counters {
            for change in run.all_changes() {
                counters.add(change.table as usize, change.kind as usize);
            }
            counters.record();
        }
        match &self.gate {
            Some(gate) => gate.send(run),
            None => gate::send(&self.outlets, run),
        }
    }
}
