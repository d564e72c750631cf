//! Streams: a river behind a walsender, the main one in front of the gate.

use std::sync::Arc;
use std::time::Duration;

use walcast::Lsn;
use walcast::app::fill::gate::Gate;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::encode::current::CurrentPlan;
use walcast::encode::mapper::OlderForms;
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::Progress;

use super::snapshots::{FITS, Form, OTHERS, Source};
use super::wire;

/// A session on a slot.
pub struct Session {
    /// The next transaction, and the next of its messages.
    next: (usize, usize),
    /// What was said of the table last, and whether anything of the other one.
    described: Option<Form>,
    has_described_others: bool,
    river: River,
    outlets: Arc<Outlets>,
    progress: Progress,
    replays_before: u64,
    /// A status update that the server has not read yet.
    in_flight: Option<Lsn>,
}

/// What a session needs beside the slot.
pub struct Route<'a> {
    pub current: &'a Arc<CurrentPlan>,
    pub outlets: &'a Arc<Outlets>,
    pub gate: Option<Arc<Gate>>,
    pub progress: Progress,
}

impl Session {
    /// Starts on a slot that was confirmed to `confirmed`.
    pub fn start(source: &Source, rng: &mut fastrand::Rng, confirmed: Lsn, route: Route<'_>) -> Session {
        let Route { current, outlets, gate, progress } = route;
        let options = RiverOptions {
            part_bytes_max: rng.usize(200..2000),
            idle_interval: Duration::ZERO,
            needed_from: progress.needed_from(),
            older: OlderForms::default(),
        };
        let replays_before = outlets.replays_requested();
        outlets.send(&Delivery::Restart);
        Session {
            next: (source.wal.partition_point(|one| one.commit_lsn < confirmed), 0),
            described: None,
            has_described_others: false,
            river: River::of(current.clone(), outlets.clone(), options).with_gate(gate),
            outlets: outlets.clone(),
            progress,
            replays_before,
            in_flight: None,
        }
    }

    /// Brings up to `messages` more; a keepalive when everything was sent.
    pub fn flow(&mut self, source: &Source, messages: usize) {
        let mut bytes = Vec::new();
        for _ in 0..messages {
            let Some(transaction) = source.wal.get(self.next.0) else {
                wire::keepalive(&mut bytes, Lsn(source.lsn));
                break;
            };
            if !std::mem::replace(&mut self.has_described_others, true) {
                describe(&mut bytes, Form { oid: OTHERS, name: "others", ..FITS });
            }
            if let Some(form) = transaction.forms[self.next.1]
                && self.described.replace(form) != Some(form)
            {
                describe(&mut bytes, form);
            }
            wire::xlog(&mut bytes, transaction.commit_lsn, &transaction.messages[self.next.1]);
            self.next.1 += 1;
            if self.next.1 == transaction.messages.len() {
                self.next = (self.next.0 + 1, 0);
            }
        }
        self.river.flow(&FrameRun::new(bytes.into())).unwrap();
    }

    /// Sends a status update, or has the server read the one that is under way.
    pub fn confirm(&mut self, confirmed: &mut Lsn) {
        match self.in_flight.take() {
            None => self.in_flight = Some(self.progress.confirmable()),
            Some(lsn) => *confirmed = lsn.max(*confirmed),
        }
    }

    pub fn needs_replay(&self) -> bool {
        self.outlets.replays_requested() > self.replays_before
    }
}

fn describe(bytes: &mut Vec<u8>, form: Form) {
    let (note, type_oid) = form.note;
    let columns = [("id", 20, true), ("name", 25, false), (note, type_oid, false)];
    wire::xlog(bytes, Lsn::ZERO, &wire::relation(form.oid, form.name, b'd', &columns));
}
