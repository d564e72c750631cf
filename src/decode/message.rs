//! One pgoutput message (protocol version 1, text or binary values). Zero-copy: tuples borrow the frame.
//!
//! Format: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>. Any bytes give a
//! message or [`Malformed`], never a panic.

use bytes::Buf;

use crate::Lsn;
use crate::capture::table::{Oid, ReplicaIdentity, TableName};

/// Microseconds from the unix epoch to 2000-01-01, Postgres' own epoch.
const POSTGRES_EPOCH_MICROS: i64 = pgwire_replication::protocol::PG_EPOCH_MICROS;

/// A pgoutput message.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// A transaction starts. Its changes follow without any other transaction between them.
    Begin(Begin),
    /// The transaction is whole.
    Commit {
        /// The position of the commit record; equals the Begin's `commit_lsn`.
        commit_lsn: Lsn,
        /// The end of the commit record: what is confirmed.
        end_lsn: Lsn,
    },
    /// Where the transaction was first committed, if it was replicated to the source.
    Origin,
    /// A relation's description; precedes its first change in a session and follows every alteration.
    Relation(Relation),
    /// A type that is not built in.
    Type {
        /// The type's OID.
        oid: Oid,
    },
    /// A new row.
    Insert {
        /// Which relation.
        relation: Oid,
        /// All its columns.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// Which relation.
        relation: Oid,
        /// The old key or row, where the replica identity asks for it.
        old: Option<Old<'a>>,
        /// All its columns; unchanged TOAST values are [`Value::Unchanged`].
        new: Tuple<'a>,
    },
    /// A removed row.
    Delete {
        /// Which relation.
        relation: Oid,
        /// Its key or its whole content.
        old: Old<'a>,
    },
    /// Emptied relations, all at once.
    Truncate {
        /// Which relations.
        relations: Vec<Oid>,
    },
    /// `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the open transaction.
        is_transactional: bool,
        /// Its prefix.
        prefix: &'a str,
        /// Its content.
        content: &'a [u8],
    },
}

/// The head of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The position of the transaction's commit record (`final_lsn` on the wire).
    pub commit_lsn: Lsn,
    /// When it was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time_micros: i64,
    /// The transaction's id at the source.
    pub xid: u32,
}

/// A relation as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The relation's OID.
    pub oid: Oid,
    /// Schema and name.
    pub name: TableName,
    /// Which old values its updates and deletes carry.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of every tuple.
    pub columns: Vec<RelationColumn>,
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// The column's name.
    pub name: String,
    /// Its declared type.
    pub type_oid: Oid,
    /// Part of the replica identity's key.
    pub is_key: bool,
}

/// The old side of an update or delete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Old<'a> {
    /// `K`: only the key columns hold values, all others are NULL and mean nothing.
    Key(Tuple<'a>),
    /// `O`: the whole row.
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The tuple, whichever kind it is.
    pub fn tuple(self) -> Tuple<'a> {
        match self {
            Old::Key(tuple) | Old::Full(tuple) => tuple,
        }
    }
}

/// One column's value as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// An out-of-line value that did not change and was not sent.
    Unchanged,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// A row's values, checked when it was read and walked again when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    data: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// How many columns it has.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values in the relation's column order.
    pub fn values(&self) -> Values<'a> {
        Values(self.data)
    }
}

/// Iterator over a tuple's values.
#[derive(Debug, Clone)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        let (&kind, rest) = self.0.split_first()?;
        self.0 = rest;
        match kind {
            b'n' => Some(Value::Null),
            b'u' => Some(Value::Unchanged),
            kind => {
                // Lengths were checked when the tuple was read.
                let length = self.0.get_u32() as usize;
                let (value, rest) = self.0.split_at(length);
                self.0 = rest;
                Some(if kind == b't' { Value::Text(value) } else { Value::Binary(value) })
            }
        }
    }
}

/// Why bytes are no pgoutput message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The tag is not one of protocol version 1.
    #[error("unknown message tag '{}'", .0.escape_ascii())]
    UnknownTag(u8),
    /// A part inside the message is not one of the format's.
    #[error("unknown {what} '{}' in message '{}'", found.escape_ascii(), tag.escape_ascii())]
    UnknownPart {
        /// The message's tag.
        tag: u8,
        /// Which part.
        what: &'static str,
        /// What stood there.
        found: u8,
    },
    /// The message ends too early.
    #[error("message '{}' ends too early", .0.escape_ascii())]
    Short(u8),
    /// Bytes are left over.
    #[error("message '{}' has {} bytes too many", tag.escape_ascii(), extra)]
    Long {
        /// The message's tag.
        tag: u8,
        /// How many.
        extra: usize,
    },
    /// A name is not UTF-8 or not terminated.
    #[error("message '{}' holds a name that is not UTF-8", .0.escape_ascii())]
    Name(u8),
}

/// Reads one message.
///
/// # Errors
/// [`Malformed`] says what is wrong; nothing of the message may be used then.
pub fn parse(data: &[u8]) -> Result<Message<'_>, Malformed> {
    let (&tag, rest) = data.split_first().ok_or(Malformed::Short(0))?;
    let mut reader = Reader { tag, rest };
    let message = match tag {
        b'B' => Message::Begin(Begin {
            commit_lsn: Lsn(reader.u64()?),
            commit_time_micros: reader.time()?,
            xid: reader.u32()?,
        }),
        b'C' => {
            reader.u8()?; // flags, none defined
            let (commit_lsn, end_lsn) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
            reader.time()?;
            Message::Commit { commit_lsn, end_lsn }
        }
        b'O' => {
            reader.u64()?;
            reader.name()?;
            Message::Origin
        }
        b'R' => Message::Relation(reader.relation()?),
        b'Y' => {
            let oid = Oid(reader.u32()?);
            reader.name()?;
            reader.name()?;
            Message::Type { oid }
        }
        b'I' => {
            let relation = Oid(reader.u32()?);
            match reader.u8()? {
                b'N' => Message::Insert { relation, new: reader.tuple()? },
                found => return Err(Malformed::UnknownPart { tag, what: "tuple", found }),
            }
        }
        b'U' => {
            let relation = Oid(reader.u32()?);
            let (old, marker) = match reader.u8()? {
                b'K' => (Some(Old::Key(reader.tuple()?)), reader.u8()?),
                b'O' => (Some(Old::Full(reader.tuple()?)), reader.u8()?),
                marker => (None, marker),
            };
            match marker {
                b'N' => Message::Update { relation, old, new: reader.tuple()? },
                found => return Err(Malformed::UnknownPart { tag, what: "tuple", found }),
            }
        }
        b'D' => {
            let relation = Oid(reader.u32()?);
            let old = match reader.u8()? {
                b'K' => Old::Key(reader.tuple()?),
                b'O' => Old::Full(reader.tuple()?),
                found => return Err(Malformed::UnknownPart { tag, what: "tuple", found }),
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = reader.u32()? as usize;
            reader.u8()?; // CASCADE and RESTART IDENTITY: every relation they reach is listed
            if reader.rest.len() != count.saturating_mul(4) {
                return Err(Malformed::Short(tag));
            }
            let relations = (0..count).map(|_| reader.u32().map(Oid)).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        b'M' => {
            let is_transactional = reader.u8()? & 1 == 1;
            reader.u64()?;
            let prefix = reader.name()?;
            let length = reader.u32()? as usize;
            Message::Logical { is_transactional, prefix, content: reader.bytes(length)? }
        }
        tag => return Err(Malformed::UnknownTag(tag)),
    };
    match reader.rest.len() {
        0 => Ok(message),
        extra => Err(Malformed::Long { tag, extra }),
    }
}

/// A cursor that knows which message it is in.
struct Reader<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short(self.tag))?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    #[inline]
    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(self.bytes(2)?.get_u16())
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(self.bytes(4)?.get_u32())
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(self.bytes(8)?.get_u64())
    }

    /// A timestamp, moved to the unix epoch.
    fn time(&mut self) -> Result<i64, Malformed> {
        Ok((self.u64()? as i64).saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// A zero-terminated string.
    fn name(&mut self) -> Result<&'a str, Malformed> {
        let length = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed::Name(self.tag))?;
        let name = self.bytes(length)?;
        self.u8()?;
        std::str::from_utf8(name).map_err(|_| Malformed::Name(self.tag))
    }

    fn relation(&mut self) -> Result<Relation, Malformed> {
        let oid = Oid(self.u32()?);
        let schema = match self.name()? {
            "" => "pg_catalog", // how the wire spells it
            schema => schema,
        };
        let name = TableName { schema: schema.to_owned(), name: self.name()?.to_owned() };
        let replica_identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            found => {
                return Err(Malformed::UnknownPart { tag: self.tag, what: "replica identity", found });
            }
        };
        let columns = (0..self.u16()?)
            .map(|_| {
                let is_key = self.u8()? & 1 == 1;
                let name = self.name()?.to_owned();
                let type_oid = Oid(self.u32()?);
                self.u32()?; // type modifier
                Ok(RelationColumn { name, type_oid, is_key })
            })
            .collect::<Result<_, _>>()?;
        Ok(Relation { oid, name, replica_identity, columns })
    }

    /// Checks a tuple to its end, so that walking it later cannot fail.
    #[inline]
    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let columns = self.u16()?;
        let start = self.rest;
        for _ in 0..columns {
            match self.u8()? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let length = self.u32()? as usize;
                    self.bytes(length)?;
                }
                found => return Err(Malformed::UnknownPart { tag: self.tag, what: "value", found }),
            }
        }
        Ok(Tuple { columns, data: &start[..start.len() - self.rest.len()] })
    }
}
