//! The way of one sink that was left behind: a copy of the slot, a stream of its own from there, and back. What is safe
//! when, [`Detour`] knows.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::session::{CATCH_UP_INTERVAL, Ending, POLL, Route, Session};
use super::{Pauses, Setup, Stop, confirm, is_passing};
use crate::Lsn;
use crate::app::sinks::{self, Lane};
use crate::capture::slot;
use crate::capture::stream::Stream;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::fanout::detour::{Detour, Progressed, may_drop};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Phase, Progress, SinkProgress, State};
use crate::postgres::socket::Socket;

/// How often a sink's own stream asks an idle server for its position: soon, because nobody else waits for it.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a sink may be stuck before its connection is given up until it goes on.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How often it is said how far behind the sink is.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A sink's own stream.
#[derive(Clone)]
pub(super) struct Branch {
    setup: Arc<Setup>,
    main: Arc<Outlets>,
    lane: Lane,
    stop: Stop,
    /// The name of the sink's copy of the slot.
    copy: String,
}

/// How the sink's own stream came to its end.
enum End {
    /// The main stream feeds it now.
    Rejoined,
    /// It needs an operator.
    Deserted,
    /// The engine ends.
    Shutdown(Option<Box<Stream<Socket>>>),
}

impl Branch {
    pub(super) fn new(setup: Arc<Setup>, main: Arc<Outlets>, lane: Lane, stop: Stop) -> Self {
        let copy = config::slot_copy(&setup.source.config.slot, &lane.sink.name);
        Branch { setup, main, lane, stop, copy }
    }

    pub(super) fn sink(&self) -> &Arc<SinkProgress> {
        &self.lane.sink
    }

    /// Lets the sink catch up and join again, or go as far as it can.
    pub(super) async fn run(self) {
        if self.sink().state() == State::CatchingUp(Phase::Left) && !self.make_copy().await {
            return;
        }
        if !matches!(self.sink().state(), State::CatchingUp(_)) {
            return;
        }
        tracing::info!(sink = self.sink().name, slot = self.copy, "catching up on a copy of the slot");
        let queue_bytes_max = self.setup.config.queue.max_bytes;
        let detour = Detour::begin(self.sink(), &self.main, self.lane.inlets.clone(), queue_bytes_max);
        let source = &self.setup.source.config;
        let route = Route {
            slot: self.copy.clone(),
            thread: format!("river-{}", self.sink().name),
            outlets: detour.outlets().clone(),
            progress: Progress::of_copy(self.sink().clone()),
            idle_interval: match self.setup.options.until_caught_up {
                true => CATCH_UP_INTERVAL,
                false => source.idle_checkpoint_interval.min(IDLE_INTERVAL),
            },
            stall_limit: Some(STALL_LIMIT),
            gate: None,
        };
        let detour = RefCell::new(detour);
        let end = self.stream(&route, &detour).await;
        let detour = detour.into_inner();
        match end {
            End::Rejoined => {
                detour.arrive();
                tracing::info!(sink = self.sink().name, lsn = %self.sink().durable_lsn(), "caught up");
                self.drop_copy().await;
            }
            End::Deserted => {
                detour.end();
                // A stopped sink goes on from its copy after the next start.
                if matches!(self.sink().state(), State::Detached(_)) {
                    self.drop_copy().await;
                }
            }
            End::Shutdown(stream) => self.finish(detour, stream.map(|stream| *stream)).await,
        }
    }

    /// Copies the slot, however often it takes. Meanwhile the main slot waits for the sink, and the others go on. A sink
    /// that has applied all that it was sent needs none: it comes back to the main stream. False for that one, and for
    /// one that is out of action.
    async fn make_copy(&self) -> bool {
        let (mut pauses, mut stop) = (Pauses::new(&self.setup.config), self.stop.clone());
        loop {
            let started = Instant::now();
            let copied = tokio::select! {
                copied = self.try_copy() => copied,
                () = stop.asked() => return false,
            };
            let Err(error) = copied else { return true };
            let wait = pauses.after(started);
            tracing::warn!(
                sink = self.sink().name,
                wait_ms = wait.as_millis() as u64,
                hint = error.hint_text(),
                "the sink cannot catch up yet, and slot {} keeps what it lacks: {}",
                self.setup.source.config.slot,
                error.chain()
            );
            self.sink().set_obstacle(Some(&error));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => return false,
            }
            if !self.sink().is_running() {
                return false;
            }
            if self.sink().has_drained() {
                self.come_back().await;
                return false;
            }
        }
    }

    /// Has the main stream sent again from the sink's checkpoint, and waits until it is.
    async fn come_back(&self) {
        tracing::info!(
            sink = self.sink().name,
            lsn = %self.sink().durable_lsn(),
            "the sink has drained and takes the main stream again from its checkpoint"
        );
        let (outlet, inlet) = self.main.queue(self.sink(), self.setup.config.queue.max_bytes);
        // A worker that is gone has said why.
        let _ = self.lane.inlets.send(inlet);
        self.main.come_back(outlet);
        let mut stop = self.stop.clone();
        while self.main.is_returning(self.sink()) {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.asked() => return,
            }
        }
    }

    async fn try_copy(&self) -> Result<()> {
        let source = &self.setup.source;
        let client = source.connect().await?;
        slot::copy(&client, &source.config.slot, &self.copy, self.sink().durable_lsn()).await?;
        self.sink().set_obstacle(None);
        Ok(())
    }

    /// Streams from the copy until the sink has joined the main stream, session after session.
    async fn stream(&self, route: &Route, detour: &RefCell<Detour>) -> End {
        let (mut pauses, mut stop) = (Pauses::new(&self.setup.config), self.stop.clone());
        loop {
            let started = Instant::now();
            let session = Session { setup: &self.setup, route };
            let error =
                match session.run(&mut stop, || self.sink().set_obstacle(None), self.ending(detour)).await {
                    Ok((Ending::Rejoined, stream)) => {
                        self.end(stream).await;
                        return End::Rejoined;
                    }
                    Ok((Ending::Deserted, stream)) => {
                        self.end(stream).await;
                        return End::Deserted;
                    }
                    Ok((Ending::Shutdown, stream)) => return End::Shutdown(stream.map(Box::new)),
                    Ok((Ending::Replay, _)) => {
                        tracing::info!(sink = self.sink().name, "the sink asked for its stream again");
                        continue;
                    }
                    Ok((Ending::Stalled, _)) => continue,
                    Ok((Ending::River | Ending::CaughtUp | Ending::Rest, _)) => {
                        Error::bug("the stream ended without a reason")
                    }
                    Err(error) => error,
                };
            if !is_passing(&error) {
                sinks::stop(self.sink(), &error.context(format!("catching up on slot {}", self.copy)));
                return End::Deserted;
            }
            let wait = pauses.after(started);
            self.sink().set_obstacle(Some(&error));
            tracing::warn!(
                sink = self.sink().name,
                wait_ms = wait.as_millis() as u64,
                hint = error.hint_text(),
                "the session of a sink that catches up failed, retrying: {}",
                error.chain()
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => return End::Shutdown(None),
            }
        }
    }

    /// Brings the sink back to the main stream while its own one flows. Resolves when it is there, or out of action.
    async fn ending(&self, detour: &RefCell<Detour>) -> Ending {
        let mut reported = Instant::now();
        loop {
            match detour.borrow_mut().step() {
                Progressed::On => {}
                Progressed::Back => return Ending::Rejoined,
                Progressed::Over => return Ending::Deserted,
            }
            if reported.elapsed() >= REPORT_INTERVAL {
                reported = Instant::now();
                self.report();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn report(&self) {
        let sink = self.sink();
        let behind = ByteSize(self.main.position().0.saturating_sub(sink.durable_lsn().0));
        let failure = sink.failure().map(|failure| failure.problem);
        tracing::info!(sink = sink.name, lsn = %sink.durable_lsn(), %behind, failure, "catching up");
    }

    /// Confirms what the sink has and ends the session, so that the copy is not in use any more.
    async fn end(&self, stream: Option<Stream<Socket>>) {
        if let Some(stream) = stream
            && let Err(error) = stream.finish(super::FINISH_TIMEOUT).await
        {
            tracing::debug!(sink = self.sink().name, "ending the session of a sink: {}", error.chain());
        }
    }

    /// Drops the copy, however often it takes: while it is there it keeps WAL. Of a sink that is attached, only once the
    /// main slot has everything that the sink could lack.
    async fn drop_copy(&self) {
        let (mut pauses, mut stop) = (Pauses::new(&self.setup.config), self.stop.clone());
        loop {
            let started = Instant::now();
            let dropped = tokio::select! {
                dropped = self.try_drop() => dropped,
                () = stop.asked() => return,
            };
            let Err(error) = dropped else { return };
            let wait = pauses.after(started);
            tracing::debug!(slot = self.copy, "the copy cannot be dropped yet: {}", error.chain());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => return,
            }
        }
    }

    async fn try_drop(&self) -> Result<()> {
        let name = &self.setup.source.config.slot;
        let client = self.setup.source.connect().await?;
        let confirmed = slot::read(&client, name).await?.and_then(|slot| slot.confirmed_flush_lsn);
        if !may_drop(self.sink(), confirmed.unwrap_or(Lsn(u64::MAX))) {
            return Err(Error::transient(format!("the sink is not where slot {name} is")));
        }
        slot::drop(&client, &self.copy).await.map_err(|error| match error.kind() {
            // The walsender of the session that has just ended.
            Kind::Halt => Error::transient("it is in use").because(error),
            _ => error,
        })?;
        tracing::info!(sink = self.sink().name, slot = self.copy, "the copy of the slot is dropped");
        Ok(())
    }

    /// Lets the worker apply what is queued, confirms it on the copy, and ends the session. The copy stays.
    async fn finish(self, detour: Detour, stream: Option<Stream<Socket>>) {
        let deadline = self.setup.start_deadline();
        let end = self.lane.end();
        detour.end();
        let drained = async {
            // The engine says so where the time is over.
            let _ = tokio::time::timeout_at(deadline.into(), end).await;
        };
        match stream {
            Some(stream) => {
                if let Err(error) = confirm(stream, drained).await {
                    tracing::warn!(
                        slot = self.copy,
                        "the last position may not be confirmed: {}",
                        error.chain()
                    );
                }
            }
            None => drained.await,
        }
    }
}
