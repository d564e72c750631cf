//! What holds for every input: of the bytes from the socket, of runs cut anywhere, of folding, of rendered rows, and
//! of a SQLite replica that is interrupted and sent everything again.

mod bytes;
#[path = "../support/changes.rs"]
mod changes;
mod folding;
#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/interruptions.rs"]
mod interruptions;
mod rendered_rows;
mod replica;
mod transactions;
#[path = "../support/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::ProptestConfig;
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::{Frame, FrameRun, complete_prefix};
use walcast::encode::cell::Cell;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::fanout::chain::chain;
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::queue::Received;

use self::golden::Recording;

static RECORDINGS: LazyLock<Vec<Recording>> = LazyLock::new(Recording::all);

/// Every pgoutput message of every recording.
static MESSAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut messages = Vec::new();
    for recording in RECORDINGS.iter() {
        for frame in frames(&recording.stream).iter() {
            if let Frame::XLogData { data, .. } = frame.unwrap() {
                messages.push(data.to_vec());
            }
        }
    }
    messages
});

fn frames(stream: &[u8]) -> FrameRun {
    FrameRun::new(stream[..complete_prefix(stream).complete].to_vec().into())
}

/// So many cases; a failure prints its input, nothing is written beside the test.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What the capture stage makes of reads of these sizes, over and over.
fn cut(stream: &[u8], reads: &[usize]) -> Vec<FrameRun> {
    let (mut buffer, mut rest, mut runs) = (Vec::new(), stream, Vec::new());
    for &read in reads.iter().cycle() {
        let (now, later) = rest.split_at(read.min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        let prefix = complete_prefix(&buffer);
        if prefix.complete > 0 {
            let behind = buffer.split_off(prefix.complete);
            runs.push(FrameRun::new(std::mem::replace(&mut buffer, behind).into()));
        }
        if rest.is_empty() {
            return runs;
        }
    }
    runs
}

/// The runs that the river delivers for reads of these sizes, up to where it halts. An idle position must not come in
/// front of a transaction that lies before it, nor inside one: a sink would take it for its checkpoint at once.
fn delivered(stream: &[u8], plan: &Arc<Plan>, reads: &[usize], part_bytes_max: usize) -> Vec<Arc<Run>> {
    delivered_from(Lsn::ZERO, stream, plan, reads, part_bytes_max)
}

fn delivered_from(
    needed_from: Lsn,
    stream: &[u8],
    plan: &Arc<Plan>,
    reads: &[usize],
    part_bytes_max: usize,
) -> Vec<Arc<Run>> {
    let (outlets, _) = Outlets::new(Duration::MAX);
    let (outlet, inlet) = outlets.queue(&SinkProgress::new("eu"), usize::MAX);
    outlets.attach(outlet);
    let (inlets, mut chain) = chain();
    inlets.send(inlet).unwrap();
    let outlets = Arc::new(outlets);
    let options = RiverOptions {
        part_bytes_max,
        idle_interval: Duration::ZERO,
        needed_from,
        older: OlderForms::default(),
    };
    let mut river = River::new(plan.clone(), outlets, options);
    for run in cut(stream, reads) {
        if river.flow(&run).is_err() {
            break;
        }
    }
    let (mut runs, mut idle) = (Vec::new(), Lsn::ZERO);
    while let Received::Item(delivery) = chain.try_receive() {
        match delivery {
            Delivery::Run(run) => {
                assert!(
                    run.spans().iter().all(|span| span.commit_lsn >= idle),
                    "{idle} overtook a transaction"
                );
                runs.push(run);
            }
            Delivery::Idle(lsn) => {
                let last = runs.last().and_then(|run: &Arc<Run>| run.spans().last());
                assert!(last.is_none_or(|span| span.end_lsn.is_some()), "{lsn} came inside a transaction");
                idle = lsn;
            }
            Delivery::Fill(_) | Delivery::Restart => {}
        }
    }
    runs
}

/// A cell with its bytes.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Absent,
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Owned {
    fn from_cell(cell: Cell, arena: &[u8]) -> Owned {
        match cell {
            Cell::Absent => Owned::Absent,
            Cell::Null => Owned::Null,
            Cell::Integer(value) => Owned::Integer(value),
            Cell::Real(value) => Owned::Real(value),
            Cell::Text(slice) => Owned::Text(String::from_utf8(slice.of(arena).to_vec()).unwrap()),
            Cell::Blob(slice) => Owned::Blob(slice.of(arena).to_vec()),
        }
    }
}
