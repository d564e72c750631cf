//! Of a SQLite replica: it equals its source however it is interrupted and whatever is sent again.

use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;
use walcast::Lsn;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::fanout::sink::{Batch, Sink};
use walcast::sink::replica::OnRejected;
use walcast::sink::sqlite::SqliteSink;

use crate::changes::{Rows, Source, transactions};
use crate::interruptions::{Event, events};
use crate::{cases, delivered};

struct Replica<'a> {
    directory: tempfile::TempDir,
    sink: SqliteSink,
    source: &'a Source,
    plan: Arc<Plan>,
    /// Where the stream stands: an index of the runs.
    next: usize,
    last: std::ops::Range<usize>,
    position: Lsn,
}

impl Replica<'_> {
    fn new(source: &Source) -> Replica<'_> {
        let directory = tempfile::tempdir().unwrap();
        let sink = SqliteSink::new(directory.path().join("replica.db"), OnRejected::Halt);
        let plan = Arc::new(source.plan());
        let mut replica = Replica { directory, sink, source, plan, next: 0, last: 0..0, position: Lsn(1) };
        assert_eq!(replica.sink.open(&replica.plan, &identity()).unwrap(), None);
        replica.sink.start_at(Lsn(1)).unwrap();
        replica
    }

    fn happen(&mut self, event: Event, runs: &[Arc<Run>]) {
        match event {
            Event::Batch(length) => {
                let end = (self.next + length).min(runs.len());
                self.last = self.next..end;
                self.next = end;
                let batch = Batch::new(&runs[self.last.clone()], self.position, None);
                if batch.spans().next().is_some() {
                    self.sink.apply(&batch).unwrap();
                    self.position = batch.end_lsn().unwrap_or(self.position);
                }
            }
            Event::Again => {
                // An open transaction would be gone after a lost answer, and then the stream starts again.
                let rows = self.rows();
                let position = self.sink.checkpoint().unwrap().lsn;
                let batch = Batch::new(&runs[self.last.clone()], position, None);
                assert_eq!(position, self.position, "the checkpoint is what the batches led to");
                assert!(batch.spans().all(|(_, span)| span.end_lsn.is_none()), "all of it is there");
                assert_eq!(self.rows(), rows);
                self.restart(0, runs);
            }
            Event::Restart(back) => {
                self.position = self.sink.checkpoint().unwrap().lsn;
                self.restart(back, runs);
            }
            Event::Crash(back) => {
                self.sink = SqliteSink::new(self.file(), OnRejected::Halt);
                let checkpoint = self.sink.open(&self.plan, &identity()).unwrap().unwrap();
                self.position = checkpoint.lsn;
                self.restart(back, runs);
            }
        }
    }

    /// Starts the stream again, `back` whole transactions before the checkpoint.
    fn restart(&mut self, back: usize, runs: &[Arc<Run>]) {
        self.last = 0..0;
        self.next = self.source.resumed_at(self.position, back, runs);
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("replica.db")
    }

    /// What an application reads.
    fn rows(&self) -> Rows {
        let reader = Connection::open(self.file()).unwrap();
        let mut statement = reader.prepare("SELECT id, name, note FROM items").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?])));
        rows.unwrap().map(std::result::Result::unwrap).collect()
    }

    fn transactions(&self) -> i64 {
        let reader = Connection::open(self.file()).unwrap();
        reader.query_row("SELECT transactions FROM _walcast_checkpoint", [], |row| row.get(0)).unwrap()
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_sqlite_replica_equals_its_source_whatever_comes_again(
        transactions in transactions(),
        is_full in any::<bool>(),
        events in events(),
        part_bytes_max in prop_oneof![1..600usize, Just(4000usize)],
    ) {
        let source = Source::new(&transactions, is_full);
        let mut replica = Replica::new(&source);
        let runs = delivered(&source.stream, &replica.plan, &[61], part_bytes_max);
        for event in events.into_iter().chain([Event::Restart(3), Event::Batch(usize::MAX / 2)]) {
            replica.happen(event, &runs);
            prop_assert_eq!(replica.rows(), source.at(replica.position), "after {:?}", event);
        }
        prop_assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
        prop_assert_eq!(replica.transactions() as usize, transactions.len(), "each transaction once");
    }
}
