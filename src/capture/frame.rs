//! Frames: what one read of the replication socket brought, cut at message boundaries and handed on as one run.
//!
//! A run owns one piece of memory; iterating it borrows each frame, so no frame is ever allocated. Pure: the socket
//! is `stream`'s business.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-replication.html> (`XLogData`, `Primary keepalive
//! message`), inside `CopyData` of <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use bytes::{Buf, Bytes};

use crate::Lsn;
use crate::error::{Error, Result};

/// Bytes of a backend message before its body: a tag and a length that counts itself.
const HEADER_BYTES: usize = 5;

/// Complete backend messages, one behind the other, as they came from the socket.
#[derive(Debug, Clone)]
pub struct FrameRun(Bytes);

impl FrameRun {
    /// A run of `bytes`, which must end on a message boundary (see [`complete_prefix`]).
    pub fn new(bytes: Bytes) -> Self {
        FrameRun(bytes)
    }

    /// How many bytes the run holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the run holds no frame.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The frames in the order of the wire.
    pub fn iter(&self) -> Frames<'_> {
        Frames(&self.0)
    }
}

/// One message of the replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// WAL data: one pgoutput message.
    XLogData {
        /// Where this data starts in the WAL; zero for messages without a position of their own.
        wal_start: Lsn,
        /// The pgoutput message.
        data: &'a [u8],
    },
    /// A keepalive.
    KeepAlive {
        /// The last position that the server has sent.
        wal_end: Lsn,
        /// The server wants a status update now.
        reply_requested: bool,
    },
    /// The server ended the stream: `CopyDone`, or `CommandComplete` when it shuts down in order (`WalSndDone` in
    /// src/backend/replication/walsender.c).
    CopyDone,
    /// An `ErrorResponse`; the body holds its fields.
    ErrorResponse(&'a [u8]),
}

/// Iterator over the frames of a run.
pub struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let length = complete_message(self.0)?;
            let (message, rest) = self.0.split_at(length);
            self.0 = rest;
            let body = &message[HEADER_BYTES..];
            return Some(match message[0] {
                b'd' => copy_data(body),
                b'c' | b'C' => Ok(Frame::CopyDone),
                b'E' => Ok(Frame::ErrorResponse(body)),
                // NoticeResponse, ParameterStatus: no part of the stream.
                b'N' | b'S' => continue,
                tag => Err(unexpected(format!("backend message '{}'", tag.escape_ascii()))),
            });
        }
    }
}

fn copy_data(mut body: &[u8]) -> Result<Frame<'_>> {
    let kind = body.first().copied().unwrap_or(0);
    match kind {
        b'w' if body.len() >= 25 => {
            body.advance(1);
            let wal_start = Lsn(body.get_u64());
            body.advance(16);
            Ok(Frame::XLogData { wal_start, data: body })
        }
        b'k' if body.len() >= 18 => {
            body.advance(1);
            let wal_end = Lsn(body.get_u64());
            body.advance(8);
            Ok(Frame::KeepAlive { wal_end, reply_requested: body.get_u8() != 0 })
        }
        kind => {
            Err(unexpected(format!("CopyData message '{}' of {} bytes", kind.escape_ascii(), body.len())))
        }
    }
}

fn unexpected(what: String) -> Error {
    Error::halt(format!("the replication stream holds an unknown {what}"))
        .hint("check that the server is Postgres 14 to 18: walcast check")
}

/// The length of the message that starts `bytes`, if it is there whole.
fn complete_message(bytes: &[u8]) -> Option<usize> {
    let length = announced(bytes)?;
    (bytes.len() >= length).then_some(length)
}

/// The length that the message at the start of `bytes` announces, header included.
fn announced(bytes: &[u8]) -> Option<usize> {
    let header: [u8; 4] = bytes.get(1..HEADER_BYTES)?.try_into().ok()?;
    Some(1 + (u32::from_be_bytes(header) as usize).max(4))
}

/// How many bytes at the start of `bytes` are whole messages, and how long the unfinished one behind them will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of whole messages.
    pub complete: usize,
    /// The length of the message that is not whole yet, once its header is there; else 0.
    pub pending: usize,
    /// A keepalive among the whole messages asks for a reply.
    pub reply_requested: bool,
    /// The highest `wal_end` of a keepalive among the whole messages.
    pub wal_end: Option<Lsn>,
}

/// Finds where the whole messages at the start of `bytes` end. Looks into keepalives only.
pub fn complete_prefix(bytes: &[u8]) -> Prefix {
    let mut prefix = Prefix { complete: 0, pending: 0, reply_requested: false, wal_end: None };
    loop {
        let rest = &bytes[prefix.complete..];
        let Some(length) = complete_message(rest) else {
            prefix.pending = announced(rest).unwrap_or(0);
            return prefix;
        };
        if let [b'd', _, _, _, _, b'k', keepalive @ ..] = &rest[..length]
            && keepalive.len() >= 17
        {
            prefix.reply_requested |= keepalive[16] != 0;
            prefix.wal_end = prefix.wal_end.max(Some(Lsn((&keepalive[..8]).get_u64())));
        }
        prefix.complete += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
        let mut body = vec![b'k'];
        body.extend(wal_end.to_be_bytes());
        body.extend(7u64.to_be_bytes());
        body.push(reply);
        message(b'd', &body)
    }

    fn xlog(start: u64, data: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.extend(start.to_be_bytes());
        body.extend([0; 16]);
        body.extend(data);
        message(b'd', &body)
    }

    #[test]
    fn a_run_gives_its_frames_in_order_and_skips_notices() {
        let end = [message(b'c', b""), message(b'C', b"COPY 0\0")].concat();
        let bytes = [xlog(5, b"abc"), message(b'N', b"notice"), keepalive(9, 1), end].concat();
        let run = FrameRun::new(bytes.into());
        let frames: Vec<_> = run.iter().map(Result::unwrap).collect();
        assert_eq!(
            frames,
            [
                Frame::XLogData { wal_start: Lsn(5), data: b"abc" },
                Frame::KeepAlive { wal_end: Lsn(9), reply_requested: true },
                Frame::CopyDone,
                Frame::CopyDone,
            ]
        );
    }

    #[test]
    fn a_message_cut_anywhere_is_left_for_the_next_read() {
        let whole = [xlog(1, b"first"), keepalive(3, 0)].concat();
        let second = xlog(2, b"second");
        for cut in 0..second.len() {
            let bytes = [&whole[..], &second[..cut]].concat();
            let prefix = complete_prefix(&bytes);
            assert_eq!(prefix.complete, whole.len());
            assert_eq!(prefix.pending, if cut < 5 { 0 } else { second.len() });
            assert_eq!(prefix.wal_end, Some(Lsn(3)));
        }
    }

    #[test]
    fn an_unknown_message_is_an_error_with_its_tag() {
        let run = FrameRun::new(message(b'd', b"?").into());
        let error = run.iter().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("'?'"), "{error}");
    }
}
