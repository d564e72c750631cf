//! Any bytes from the socket → frames → decoder → mapper → rendered and folded rows, without a panic.

#![no_main]

#[path = "../support/golden.rs"]
mod golden;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walcast::Lsn;
use walcast::capture::frame::{Frame, FrameRun, complete_prefix};
use walcast::decode::{Decoder, message};
use walcast::encode::fold::{ChangeRef, Fold};
use walcast::encode::json_rows::JsonRows;
use walcast::encode::mapper::Mapper;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;

/// The tables of all recordings, so that every one of them is a seed.
static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let recordings = golden::Recording::all();
    Arc::new(Plan { tables: recordings.iter().flat_map(|one| one.plan.tables.clone()).collect() })
});

/// Small, so that transactions come in parts.
const PART_BYTES_MAX: usize = 300;

fuzz_target!(|data: &[u8]| {
    // As one message, whatever it is.
    let _ = message::parse(data);
    // As a stream.
    let complete = complete_prefix(data).complete;
    let frames = FrameRun::new(Bytes::copy_from_slice(&data[..complete]));
    flow(frames.iter().map_while(Result::ok), Lsn::ZERO);
    // Sent again, with a part of it left out.
    flow(frames.iter().map_while(Result::ok), Lsn(0x0150_9000));
    // As messages behind lengths, which survive a mutation more often.
    flow(Messages(data), Lsn::ZERO);
});

fn flow<'a>(frames: impl Iterator<Item = Frame<'a>>, needed_from: Lsn) {
    let (mut decoder, mut mapper) = (Decoder::new(), Mapper::new(PLAN.clone(), PART_BYTES_MAX, needed_from));
    for frame in frames {
        let Ok(event) = decoder.decode(frame) else { break };
        let Some(event) = event else { continue };
        mapper.map(event);
        mapper.take_full().iter().for_each(read);
    }
    mapper.take_ended().iter().for_each(read);
}

/// Everything that a sink would read.
fn read(run: &Run) {
    let rows = JsonRows::of(run, &PLAN);
    (0..run.all_changes().len())
        .for_each(|index| assert!(rows.get(index).is_empty() || rows.get(index).starts_with('[')));
    run.spans().iter().for_each(|span| assert!(run.changes(span).len() == span.changes.len()));
    let mut fold = Fold::new(&PLAN);
    for span in run.spans() {
        span.changes.clone().for_each(|index| fold.add(ChangeRef { run, span, index }));
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (&length, rest) = self.0.split_first()?;
        let (data, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(Frame::XLogData { wal_start: Lsn(1), data })
    }
}
