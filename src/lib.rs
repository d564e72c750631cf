//! walcast keeps edge databases in step with Postgres: it consumes the pgoutput stream of a replication slot, maps it
//! through `schema.json`, and applies it to several regional replicas. The slot is confirmed only after every replica
//! that depends on it has made the change durable.
//!
//! ```text
//! Postgres ── capture ──► decode ──► encode ──► fanout ──► sink (na) ──► SQLite
//!   slot      frames      changes     runs        │   └──► sink (eu)
//!    ▲                                            └──────► sink (asia) …
//!    └─────────────── confirm: min(durable LSN of every sink) ◄──┘
//! ```
//!
//! # Reading order
//!
//! Each folder imports only what stands above it here; `tests/architecture.rs` keeps it so.
//!
//! | Module | Holds |
//! |---|---|
//! | [`error`], `document`, `https`, [`config`], [`telemetry`], [`postgres`] | what every stage uses |
//! | [`capture`] | Postgres → frames: catalog, publication, slot, replication stream; chunks of a table |
//! | [`decode`] | frames → transactions of typed changes. Pure |
//! | [`encode`] | transactions and chunks → runs: `schema.json`, plan, mapping, rendering, folding. Pure |
//! | [`fanout`] | the [`Sink`](fanout::sink::Sink) contract, queues, workers, retries, progress |
//! | [`sink`] | adapters: D1, SQLite, null |
//! | [`app`] | the top: engine, HTTP API, commands, demo |
//!
//! Three kinds of thread run. The main thread is a tokio runtime with the replication socket, timers and signals. One
//! plain thread, the river, decodes and maps. Each sink has a thread of its own. (The HTTP API, where it is on, has one
//! more, which only looks on.) Between them: frame runs over a small
//! channel, runs behind an `Arc` over queues bounded by bytes, and positions in atomics on the way back. Blocking on a
//! full queue is the back-pressure, until one sink alone causes it: then the stream goes on without that one, which
//! gets a runtime, a river and a copy of the slot of its own until it is back.
//!
//! # Invariants
//!
//! 1. A slot's `confirmed_flush_lsn` never passes a position that a sink depending on that slot has not made durable.
//!    (`tests/simulation`, `tests/delivery.rs`)
//! 2. Only a commit's `end_lsn` is confirmed, or a keepalive's `wal_end` when nothing at all is buffered or in flight.
//!    It travels through the queues behind the changes and is kept in each sink's checkpoint first, so an idle
//!    publication on a busy server never pins WAL, and nothing unapplied is ever confirmed.
//!    (`tests/simulation`, `tests/source_failures.rs`)
//! 3. A sink's rows and its checkpoint commit in one transaction at the sink. Replay is skipped by checkpoint: delivery
//!    is at least once, the effect exactly once. (`tests/simulation`, `tests/delivery.rs`)
//! 4. Per sink, transactions apply in commit order and readers never see half of one, whatever its size. Only a D1 sink
//!    splits one that alone exceeds what D1 takes in a request, and then its checkpoint says how many of the changes
//!    are there. (`tests/simulation`, `tests/delivery.rs`, `tests/d1_simulation.rs`, `tests/d1_delivery.rs`)
//! 5. A slow, dead or misconfigured sink never stalls the others and never loses data. One that stops is passed over,
//!    and a slot keeps what it lacks. One that is slower than the others is *catching up*: it leaves the main stream once
//!    it has kept sinks without work waiting for `queue.patience`, reads a copy of the slot at its own pace, and joins
//!    again; at every moment the main slot or its copy holds what it lacks. Beyond `catch_up.max_wal` it is *detached*,
//!    and says so. One that is away when the engine starts, or comes with a reload, is waited for by the slot and joins in
//!    the same way. ([`fanout::detour`], `tests/reload.rs`, `tests/regions.rs`, `tests/simulation`, `tests/catch_up.rs`, `tests/d1_isolation.rs`)
//! 6. No row disappears silently: it is applied, dead-lettered with its reason, or the engine halts. Or its table is
//!    stopped, which every sink keeps before it goes past the row, and which ends only by filling the table anew from
//!    behind everything that was left out. ([`fanout::stop`], `tests/changes.rs`, `tests/misfits.rs`,
//!    `tests/source_ddl.rs`)
//! 7. Every queue, buffer, retry, request and transaction size has a limit, named in [`config`].
//! 8. Slot missing, invalidated, ahead of a sink's checkpoint, or on another system or timeline: that sink or the
//!    engine stops with the next command to run. It never resumes from somewhere else.
//!    (`capture::slot::judge`, `tests/source_failures.rs`)
//! 9. A row of a chunk may be newer than the stream position it is queued at, never older than what the sink holds:
//!    what its snapshot sees decides, not LSN order. ([`encode::touched`], [`app::fill`], `tests/backfill_simulation`,
//!    `tests/fill_simulation`, `tests/visibility.rs`, `tests/backfill.rs`)

pub mod app;
pub mod capture;
pub mod config;
pub mod decode;
mod document;
pub mod encode;
pub mod error;
pub mod fanout;
mod https;
pub mod postgres;
pub mod sink;
pub mod telemetry;

pub use pgwire_replication::Lsn;
