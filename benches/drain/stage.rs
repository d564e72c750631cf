//! The D1 sinks alone: the backlog's stream is read and decoded before the clock starts, so that nothing shares the
//! processors with the sinks but the databases. What then runs is what runs in the engine: a worker for each sink, with
//! the limits that it has there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgwire_replication::protocol::encode_standby_status_update;
use pgwire_replication::protocol::framing::write_copy_data;
use tokio::io::AsyncReadExt;
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::app::source::start_replication;
use walcast::capture::catalog;
use walcast::capture::frame::{FrameRun, complete_prefix};
use walcast::capture::slot::SourceIdentity;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::{Error, Result};
use walcast::fanout::chain::{Chain, chain};
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::Sink;
use walcast::fanout::worker::Worker;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;
use walcast::postgres::wire::ReplicationSession;
use walcast::sink::d1::body::Bulk;
use walcast::sink::d1::transport::{Answer, Failure, Statement, Transport};
use walcast::sink::d1::{D1Sink, Options};

use crate::measure::{self, Sample};
use crate::server::Server;
use crate::workload::Backlog;

/// How often the server is asked whether that was all.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes that one read of the socket brings, about.
const READ_BYTES: usize = 128 << 10;
/// A larger transaction travels in parts: the configuration's default.
const PART_BYTES: usize = 1 << 20;

/// A backlog's stream as the server sent it.
pub struct Stream {
    plan: Arc<Plan>,
    bytes: Vec<u8>,
}

impl Stream {
    /// Reads the slot, which is used up by it.
    pub fn read(server: &Server, backlog: &Backlog, slot: &str) -> Result<Stream> {
        let info = ConnectionInfo::resolve(&server.cluster.tcp_url())?;
        let schema = SchemaFile::parse("schema.json", &backlog.schema.to_string())?;
        let end: Lsn = backlog.end_lsn.parse().map_err(|_| Error::bug("the backlog's end is no LSN"))?;
        server.block_on(async {
            let client = session::connect(&info, "bench").await?;
            let names: Vec<_> = schema.tables.keys().cloned().collect();
            let plan = Arc::new(Plan::new(&schema, &catalog::read_tables(&client, &names).await?)?);
            let replication = ReplicationSession::connect(&info, "bench").await?;
            let start = start_replication(slot, &backlog.publication, false);
            let (mut socket, mut buffer) = replication.start_copy_both(&start).await?;
            let failed = |error: std::io::Error| Error::halt("reading the backlog").because(error);
            while complete_prefix(&buffer).wal_end < Some(end) {
                let status = encode_standby_status_update(Lsn::ZERO, 0, true);
                write_copy_data(&mut socket, &status)
                    .await
                    .map_err(|error| Error::halt("asking for the backlog").because(error))?;
                // Cancel-safe: what was read is in the buffer.
                let reading = async {
                    loop {
                        if let Err(error) = socket.read_buf(&mut buffer).await {
                            break error;
                        }
                    }
                };
                if let Ok(error) = tokio::time::timeout(ASK_INTERVAL, reading).await {
                    return Err(failed(error));
                }
            }
            Ok(Stream { plan, bytes: buffer.to_vec() })
        })
    }

    /// A queue with everything in it, decoded but not rendered, as in the engine.
    fn queue(&self, progress: &Arc<SinkProgress>) -> Result<Chain> {
        let (outlets, _) = Outlets::new(Duration::MAX);
        let (outlet, inlet) = outlets.queue(progress, usize::MAX);
        outlets.attach(outlet);
        let (inlets, queue) = chain();
        // The other end is right here.
        let _ = inlets.send(inlet);
        let options = RiverOptions {
            part_bytes_max: PART_BYTES,
            idle_interval: Duration::ZERO,
            needed_from: Lsn::ZERO,
            older: OlderForms::default(),
        };
        outlets.send(&Delivery::Restart);
        let mut river = River::new(self.plan.clone(), Arc::new(outlets), options);
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            let (mut length, mut complete) = (READ_BYTES, 0);
            while complete == 0 {
                complete = complete_prefix(&rest[..length.min(rest.len())]).complete;
                length *= 2;
            }
            river.flow(&FrameRun::new(rest[..complete].to_vec().into()))?;
            rest = &rest[complete..];
        }
        Ok(queue)
    }

    /// Lets a sink for each transport apply everything, all at the same time.
    pub fn drain(&self, transports: Vec<Box<dyn Transport>>) -> Result<Sample> {
        let (mut workers, mut waited) = (Vec::new(), Vec::new());
        for transport in transports {
            let options = Options::default();
            waited.push(Arc::new(AtomicU64::new(0)));
            let timed = Timed { transport, waited: waited[waited.len() - 1].clone() };
            let mut sink = D1Sink::new("the bench's D1", Box::new(timed), options);
            sink.open(&self.plan, &identity())?;
            sink.start_at(Lsn(1))?;
            let progress = SinkProgress::new("d1");
            let queue = self.queue(&progress)?;
            let backoff = Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(1) };
            let limits = options.request.batch();
            let rng = fastrand::Rng::new();
            workers.push(Worker::new(sink, queue, progress, Lsn(1), limits, backoff, rng));
        }
        waited.iter().for_each(|waited| waited.store(0, Ordering::Relaxed));
        let (started, cpu_before) = (Instant::now(), measure::own_cpu_seconds());
        std::thread::scope(|scope| {
            workers.into_iter().for_each(|worker| drop(scope.spawn(|| worker.run(|| None))));
        });
        let seconds = started.elapsed().as_secs_f64();
        let in_flight: u64 = waited.iter().map(|waited| waited.load(Ordering::Relaxed)).sum();
        Ok(Sample {
            seconds,
            cpu_seconds: measure::own_cpu_seconds() - cpu_before,
            in_flight: in_flight as f64 / 1e9 / seconds / waited.len() as f64,
            ..Sample::default()
        })
    }
}

/// A way to a database that counts the time of its requests.
struct Timed {
    transport: Box<dyn Transport>,
    /// Nanoseconds.
    waited: Arc<AtomicU64>,
}

impl Transport for Timed {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        let started = Instant::now();
        let answers = self.transport.call(first, bulk);
        self.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        answers
    }

    fn is_compressed(&self) -> bool {
        self.transport.is_compressed()
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "bench".into(), database: "bench".into() }
}
