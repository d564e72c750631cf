//! What spans messages: the relations that this session has described and the transaction that is open. One decoder
//! per session, because a new session describes its relations anew.
//!
//! Enters: the frames of one session, in order. Leaves: one [`Event`] for each frame that means something. It never
//! guesses: a change outside a transaction or of an undescribed relation ends the session with an error.

use std::sync::Arc;

use super::message::{self, Begin, Malformed, Message, Old, Relation, Tuple};
use crate::Lsn;
use crate::capture::frame::Frame;
use crate::capture::table::{Oid, OidMap};
use crate::error::{Error, Kind, Result};

/// What a frame means to the stages behind.
#[derive(Debug)]
pub enum Event<'a> {
    /// A relation was described for the first time, or anew after an alteration.
    Relation(Arc<Relation>),
    /// A transaction starts.
    Begin(Begin),
    /// One row changed in the open transaction.
    Change {
        /// Whose row.
        relation: Oid,
        /// How it changed.
        change: Change<'a>,
    },
    /// Relations were emptied in the open transaction.
    Truncate(Vec<Oid>),
    /// The open transaction is whole; `end_lsn` may be confirmed once every sink has it.
    Commit {
        /// The end of the commit record.
        end_lsn: Lsn,
    },
    /// Everything up to here was sent and no transaction is open.
    Idle {
        /// The server's last sent position.
        wal_end: Lsn,
    },
}

/// How a row changed.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// It is new.
    Insert(Tuple<'a>),
    /// It has new values; `old` is its old key or content where that was sent.
    Update(Option<Old<'a>>, Tuple<'a>),
    /// It is gone.
    Delete(Old<'a>),
}

/// Turns the frames of one session into events.
#[derive(Default)]
pub struct Decoder {
    relations: OidMap<Arc<Relation>>,
    open: Option<Begin>,
    /// The last position seen, for messages.
    lsn: Lsn,
}

impl Decoder {
    /// A decoder for a new session.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a transaction has begun and not ended.
    pub fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Reads one frame; `None` where it means nothing to the stages behind.
    ///
    /// # Errors
    /// An unknown or malformed message halts with its tag, LSN and the next command; the server's own error and its
    /// end of the stream are transient.
    pub fn decode<'a>(&mut self, frame: Frame<'a>) -> Result<Option<Event<'a>>> {
        match frame {
            Frame::XLogData { wal_start, data } => {
                if wal_start != Lsn::ZERO {
                    self.lsn = wal_start;
                }
                let message = message::parse(data).map_err(|malformed| self.malformed(malformed))?;
                self.message(message)
            }
            // Inside a transaction `wal_end` may lie beyond changes that are still to be sent.
            Frame::KeepAlive { wal_end, .. } if self.open.is_none() => Ok(Some(Event::Idle { wal_end })),
            Frame::KeepAlive { .. } => Ok(None),
            Frame::CopyDone => Err(Error::transient("the server ended the replication stream")),
            Frame::ErrorResponse(body) => Err(server_error(body)),
        }
    }

    fn message<'a>(&mut self, message: Message<'a>) -> Result<Option<Event<'a>>> {
        Ok(Some(match message {
            Message::Begin(begin) => {
                if self.open.replace(begin).is_some() {
                    return Err(self.out_of_order("Begin inside a transaction"));
                }
                self.lsn = begin.commit_lsn;
                Event::Begin(begin)
            }
            Message::Commit { commit_lsn, end_lsn } => match self.open.take() {
                Some(begin) if begin.commit_lsn == commit_lsn => Event::Commit { end_lsn },
                _ => return Err(self.out_of_order("Commit of a transaction that did not begin")),
            },
            Message::Relation(relation) => {
                let relation = Arc::new(relation);
                self.relations.insert(relation.oid, relation.clone());
                Event::Relation(relation)
            }
            Message::Insert { relation, new } => self.change(relation, Change::Insert(new))?,
            Message::Update { relation, old, new } => self.change(relation, Change::Update(old, new))?,
            Message::Delete { relation, old } => self.change(relation, Change::Delete(old))?,
            Message::Truncate { relations } => {
                if self.open.is_none() {
                    return Err(self.out_of_order("Truncate outside a transaction"));
                }
                if let Some(oid) = relations.iter().find(|oid| !self.relations.contains_key(oid)) {
                    return Err(self.out_of_order(&format!("Truncate of undescribed relation {}", oid.0)));
                }
                Event::Truncate(relations)
            }
            Message::Origin | Message::Type { .. } | Message::Logical { .. } => return Ok(None),
        }))
    }

    /// A change must stand in a transaction and fit its relation's description.
    fn change<'a>(&self, oid: Oid, change: Change<'a>) -> Result<Event<'a>> {
        if self.open.is_none() {
            return Err(self.out_of_order("a change outside a transaction"));
        }
        let Some(relation) = self.relations.get(&oid) else {
            return Err(self.out_of_order(&format!("a change of undescribed relation {}", oid.0)));
        };
        let (first, second) = match change {
            Change::Insert(new) => (new, None),
            Change::Update(old, new) => (new, old.map(Old::tuple)),
            Change::Delete(old) => (old.tuple(), None),
        };
        let width = relation.columns.len();
        if first.len() != width || second.is_some_and(|tuple| tuple.len() != width) {
            return Err(
                self.out_of_order(&format!("a tuple of {} that does not fit its relation", relation.name))
            );
        }
        Ok(Event::Change { relation: oid, change })
    }

    fn malformed(&self, malformed: Malformed) -> Error {
        Error::halt(format!("cannot read the replication stream at {}: {malformed}", self.lsn)).hint(
            "nothing was skipped or confirmed; check that the server is Postgres 14 to 18 with `walcast check`, \
             update walcast, and start it again",
        )
    }

    fn out_of_order(&self, what: &str) -> Error {
        Error::halt(format!("the replication stream is out of order at {}: {what}", self.lsn))
            .hint("nothing was skipped or confirmed; start walcast again, and report it if it stays")
    }
}

/// The server's own error, by its fields
/// (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).
fn server_error(body: &[u8]) -> Error {
    let fields = pgwire_replication::protocol::messages::ErrorFields::parse(body);
    let code = fields.code.unwrap_or_default();
    let message = format!(
        "the server ended the replication stream: {} (SQLSTATE {code})",
        fields.message.unwrap_or_else(|| "no message".to_owned()),
    );
    match code.as_str() {
        // Of all objects only the publication is looked up while a stream runs, as it was at that point of the WAL: one
        // that is made anew is not there for the WAL before it.
        "42704" => Error::new(Kind::NeedsBackfill, message).hint(
            "the publication was dropped; the slot cannot go past that point. The replicas must be filled anew: \
             `walcast teardown`, and then `walcast nuke --all`",
        ),
        _ => Error::transient(message),
    }
}
