//! A sink that counts and discards: what capture, decoding and mapping cost by themselves. Its checkpoint lives only as
//! long as the process.

use std::sync::Arc;

use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::fill::{FillWrite, Fills};
use crate::fanout::sink::{Applied, Batch, Checkpoint, Sink};

/// Counts and discards.
#[derive(Default)]
pub struct NullSink {
    checkpoint: Option<Checkpoint>,
    source: Option<SourceIdentity>,
    fills: Fills,
}

impl Sink for NullSink {
    fn open(&mut self, _: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.source = Some(source.clone());
        Ok(None)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        let source =
            self.source.clone().ok_or_else(|| Error::bug("null sink started before it was opened"))?;
        self.checkpoint =
            Some(Checkpoint { lsn, commit_time_micros: None, source, epoch: 1, transactions: 0, open: None });
        Ok(())
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        self.start_at(lsn)
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let mut applied = Applied::default();
        for (_, span) in batch.spans() {
            applied.changes += span.changes.len() as u64;
            applied.transactions += u64::from(span.end_lsn.is_some());
        }
        if let (Some(checkpoint), Some(lsn)) = (&mut self.checkpoint, batch.end_lsn()) {
            checkpoint.lsn = lsn;
            checkpoint.transactions += applied.transactions;
        }
        Ok(applied)
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        self.fills.set(write.table, write.fill.clone());
        let changes = write.run.map_or(0, |run| run.all_changes().len() as u64);
        Ok(Applied { changes, ..Applied::default() })
    }

    fn fills(&mut self) -> Result<Fills> {
        Ok(self.fills.clone())
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.checkpoint.clone().ok_or_else(|| Error::bug("null sink has no checkpoint yet"))
    }
}
