//! The replication stream: reads the socket, hands frames on in runs, and tells the slot what is durable.
//!
//! Enters: a session after `START_REPLICATION`. Leaves: [`FrameRun`]s, over a bounded channel. It never interprets
//! WAL data and never confirms anything but what it is given.
//!
//! **How it reads.** At a [`Pace`](super::pace): not as soon as there is something, but when there is enough.
//!
//! **What it sends.** Standby status updates: when the confirmable position moved (at most once per interval), when
//! the server asks, and regularly although nothing moved, because `wal_sender_timeout` ends a silent session. That
//! goes on while the stages behind are blocked.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use pgwire_replication::protocol::framing::{write_copy_data, write_copy_done};
use pgwire_replication::protocol::{encode_standby_status_update, unix_to_pg_timestamp};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::{FrameRun, complete_prefix};
use super::haste::{HASTE_INTERVAL, Haste};
use super::pace::{Pace, PaceOptions};
use crate::Lsn;
use crate::error::{Error, Result};

/// How much one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// How long a status update may take to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the stream behaves.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Status updates go out at most this often when the position moves.
    pub status_interval: Duration,
    /// The server is asked for its position this often, so that an idle slot moves.
    pub keepalive_interval: Duration,
    /// A longer message ends the stream with an error.
    pub message_bytes_max: usize,
    /// How the socket is read.
    pub pace: PaceOptions,
}

/// A running stream.
pub struct Stream<S> {
    socket: S,
    buffer: BytesMut,
    options: StreamOptions,
    /// What may be confirmed at this moment.
    confirmable: Box<dyn Fn() -> Lsn + Send>,
    sent: Lsn,
    next_status: Instant,
    next_keepalive: Instant,
    pace: Pace,
    last_read: Instant,
    haste: Option<Haste>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// A stream on a socket that is in copy-both mode; `buffer` holds what was already read from it.
    pub fn new(
        socket: S,
        buffer: BytesMut,
        options: StreamOptions,
        confirmable: impl Fn() -> Lsn + Send + 'static,
    ) -> Self {
        let now = Instant::now();
        Stream {
            socket,
            buffer,
            options,
            confirmable: Box::new(confirmable),
            sent: Lsn::ZERO,
            next_status: now,
            next_keepalive: now,
            pace: Pace::new(options.pace),
            last_read: now,
            haste: None,
        }
    }

    /// Makes the stream ask for its position at once, and again, while somebody waits for it.
    pub fn with_haste(self, haste: Haste) -> Self {
        Stream { haste: Some(haste), ..self }
    }

    /// Reads and hands on until `stop` resolves or the receiver is gone.
    ///
    /// # Errors
    /// Transient when the connection fails; halt when a message is longer than the limit.
    pub async fn run(&mut self, runs: &mpsc::Sender<FrameRun>, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        let mut haste = self.haste.clone();
        loop {
            self.status_if_due().await?;
            let next_status = self.next_status;
            // Room first: what cannot be handed on is not read, and so the server is slowed down.
            let permit = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                permit = runs.reserve() => match permit {
                    Ok(permit) => permit,
                    Err(_) => return Ok(()),
                },
                () = sleep_until(next_status) => continue,
            };
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = runs.closed() => return Ok(()),
                read = self.read() => {
                    if let Some(run) = read? {
                        permit.send(run);
                    }
                }
                () = asked(&mut haste) => self.next_status = Instant::now(),
                () = sleep_until(next_status) => {}
            }
        }
    }

    /// Keeps the session alive, without reading, until `done` resolves: the sinks are finishing what they have.
    pub async fn idle_until(&mut self, done: impl Future<Output = ()>) -> Result<()> {
        let mut done = pin!(done);
        loop {
            self.status_if_due().await?;
            tokio::select! {
                () = &mut done => return Ok(()),
                () = sleep_until(self.next_status) => {}
            }
        }
    }

    /// Confirms what is durable now and ends the session, within `limit`. The server has taken the position when this
    /// returns `Ok`.
    pub async fn finish(mut self, limit: Duration) -> Result<()> {
        let end = async {
            self.status(false).await?;
            write_copy_done(&mut self.socket)
                .await
                .map_err(|error| lost("ending the replication stream", error))?;
            // What still comes was not taken and will be sent again in the next session.
            loop {
                self.buffer.clear();
                self.buffer.reserve(READ_BYTES);
                match self.socket.read_buf(&mut self.buffer).await {
                    Ok(0) => return Ok(()),
                    Ok(_) if ends_with_ready(&self.buffer) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(lost("ending the replication stream", error)),
                }
            }
        };
        match timeout(limit, end).await {
            Ok(result) => result,
            Err(_) => Err(Error::transient("the server did not end the replication stream in time")),
        }
    }

    /// One read, and what it completed. Cancel-safe: what was read stays in the buffer.
    async fn read(&mut self) -> Result<Option<FrameRun>> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        if let Some(nap) = self.pace.nap() {
            // tokio's timer is too coarse for this, and nothing else on this thread is that urgent.
            std::thread::sleep(nap);
        }
        let mut read_bytes = self.read_once().await?;
        if self.options.pace.is_drained {
            while let Some(more) = ready_now(self.read_once()).await {
                read_bytes += more?;
            }
        }
        let now = Instant::now();
        self.pace.adapt(read_bytes, now - self.last_read);
        self.last_read = now;

        let prefix = complete_prefix(&self.buffer);
        if prefix.pending > self.options.message_bytes_max {
            return Err(Error::halt(format!(
                "a replication message of {} bytes is above source.max_message_bytes ({})",
                prefix.pending, self.options.message_bytes_max
            ))
            .hint("raise max_message_bytes in [source]; nothing was skipped or confirmed"));
        }
        if prefix.pending > self.buffer.capacity() - prefix.complete {
            self.buffer.reserve(prefix.pending);
        }
        if prefix.reply_requested {
            self.next_status = Instant::now();
        }
        Ok((prefix.complete > 0).then(|| FrameRun::new(self.buffer.split_to(prefix.complete).freeze())))
    }

    async fn read_once(&mut self) -> Result<usize> {
        if self.buffer.capacity() == self.buffer.len() {
            // Full: let it be handed on first.
            return std::future::pending().await;
        }
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Error::transient("the server closed the replication connection")),
            Ok(read_bytes) => Ok(read_bytes),
            Err(error) => Err(lost("reading the replication stream", error)),
        }
    }

    async fn status_if_due(&mut self) -> Result<()> {
        let now = Instant::now();
        if now >= self.next_status {
            let is_hasty = self.haste.as_ref().is_some_and(Haste::is_on);
            let asks = is_hasty || now >= self.next_keepalive;
            if asks {
                self.next_keepalive = now + self.options.keepalive_interval;
            }
            self.status(asks).await?;
            let interval = self.options.status_interval;
            self.next_status = now + if is_hasty { interval.min(HASTE_INTERVAL) } else { interval };
        }
        Ok(())
    }

    /// Sends a standby status update.
    async fn status(&mut self, reply_requested: bool) -> Result<()> {
        self.sent = self.sent.max((self.confirmable)());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let message = encode_standby_status_update(
            self.sent,
            unix_to_pg_timestamp(now.as_micros() as i64),
            reply_requested,
        );
        match timeout(WRITE_TIMEOUT, write_copy_data(&mut self.socket, &message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost("sending a status update", error)),
            Err(_) => Err(Error::transient("sending a status update timed out")),
        }
    }
}

/// Resolves when somebody wants the position.
async fn asked(haste: &mut Option<Haste>) {
    match haste {
        Some(haste) => haste.asked().await,
        None => std::future::pending().await,
    }
}

fn lost(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::transient(format!("{doing} failed")).because(error)
}

/// Whether the last message in `bytes` is ReadyForQuery.
fn ends_with_ready(bytes: &[u8]) -> bool {
    matches!(bytes, [.., b'Z', 0, 0, 0, 5, _])
}

/// The future's output if it is ready at once.
async fn ready_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[cfg(test)]
mod tests;
