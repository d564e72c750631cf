//! A sink of any kind, as the configuration describes it.

use std::sync::Arc;

use crate::Lsn;
use crate::app::d1::{self, Transports};
use crate::capture::slot::SourceIdentity;
use crate::config::{self, SchemaChanges, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::Result;
use crate::fanout::fill::{FillWrite, Fills, OwedKey};
use crate::fanout::sink::{Applied, Batch, Checkpoint, Reached, Sink, Whole};
use crate::sink::d1::D1Sink;
use crate::sink::null::NullSink;
use crate::sink::sqlite::SqliteSink;
use crate::telemetry;

/// Any kind of sink.
pub enum AnySink {
    /// A SQLite file.
    Sqlite(SqliteSink),
    /// A D1 database, and the sink's name.
    D1(Box<D1Sink>, String),
    /// Counts and discards.
    Null(NullSink),
}

impl AnySink {
    /// The sink that the configuration describes; nothing is opened.
    ///
    /// # Errors
    /// Its address is none.
    pub fn new(config: &config::Sink, changes: SchemaChanges, transports: &Transports) -> Result<Self> {
        let on_rejected = d1::on_rejected(config.on_rejected);
        Ok(match (&config.target, transports.connect(&config.target, None)?) {
            (SinkTarget::D1(_, writing) | SinkTarget::D1Worker(_, writing), Some(transport)) => {
                let options = d1::options(writing, on_rejected, changes);
                let sink = D1Sink::new(d1::place(&config.target), transport, options);
                AnySink::D1(Box::new(sink), config.name.to_string())
            }
            (SinkTarget::Sqlite { path }, _) => {
                let is_manual = changes == SchemaChanges::Manual;
                AnySink::Sqlite(SqliteSink::new(path, on_rejected).with_manual_changes(is_manual))
            }
            (SinkTarget::Null | SinkTarget::D1(..) | SinkTarget::D1Worker(..), _) => {
                AnySink::Null(NullSink::default())
            }
        })
    }

    fn any(&mut self) -> &mut dyn Sink {
        match self {
            AnySink::Sqlite(sink) => sink,
            AnySink::D1(sink, _) => &mut **sink,
            AnySink::Null(sink) => sink,
        }
    }
}

impl Sink for AnySink {
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.any().open(plan, source)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        self.any().start_at(lsn)
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        self.any().begin_anew(lsn)
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        self.any().apply(batch)
    }

    fn apply_some(&mut self, batch: &Batch<'_>) -> Result<(Applied, Reached)> {
        let applied = self.any().apply_some(batch);
        if let AnySink::D1(sink, name) = self
            && let Some(usage) = sink.usage()
        {
            telemetry::d1_wrote(name, usage.rows_written, usage.dollars());
        }
        applied
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        self.any().fill(write)
    }

    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        self.any().take_missing()
    }

    fn fills(&mut self) -> Result<Fills> {
        self.any().fills()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.any().checkpoint()
    }

    fn end(&mut self) {
        self.any().end();
    }

    fn whole(&self) -> Whole {
        match self {
            AnySink::Sqlite(sink) => sink.whole(),
            AnySink::D1(sink, _) => sink.whole(),
            AnySink::Null(sink) => sink.whole(),
        }
    }
}
