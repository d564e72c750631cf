//! Statements in the form in which they are sent: `{"batch":[{"sql":…,"params":[…]}, …]}`, gzipped where a way to the
//! database wants that.
//!
//! The fence in front of a request depends on the answer to the request before it; nothing behind the fence does. So
//! everything else is written ahead, as a [`Bulk`], while another request is in flight, and the fence is put in front
//! when it is known. Compressed bytes take that too: a gzip file is a sequence of blocks, and a block may hold bytes as
//! they are.

use std::io::Write as _;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use serde::Serialize;

use super::transport::Statement;

const START: &[u8] = b"{\"batch\":[";
const END: &[u8] = b"]}";
/// The head of a gzip file: deflate, no name, no time, written by nobody in particular.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Less is not compressed, in bytes: it would save nothing that a packet does not hold anyway.
const COMPRESSED_FROM_BYTES: usize = 1024;
/// What a block of bytes as they are can hold.
const STORED_BYTES_MAX: usize = u16::MAX as usize;

/// Statements that are written already.
#[derive(Debug, Default)]
pub struct Bulk {
    statements: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// The statements' JSON with commas between them.
    Json(Vec<u8>),
    /// The same and the body's end, as the last blocks of a gzip file.
    Deflated { blocks: Vec<u8>, sum: Crc },
}

impl Default for Form {
    fn default() -> Self {
        Form::Json(Vec::new())
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    sql: &'a str,
    params: &'a [String],
}

impl Bulk {
    /// Writes the statements.
    pub fn new(statements: &[Statement]) -> Self {
        let mut json = Vec::with_capacity(statements.iter().map(room).sum());
        write(statements, &mut json);
        Bulk { statements: statements.len(), form: Form::Json(json) }
    }

    /// How many statements it holds.
    pub fn statements(&self) -> usize {
        self.statements
    }

    /// The same compressed, as fast as that goes: rows of JSON shrink to a fifth even so. Little stays as it is.
    #[must_use]
    pub fn compressed(self) -> Self {
        match self.form {
            Form::Json(json) if json.len() >= COMPRESSED_FROM_BYTES => {
                let (blocks, sum) = deflate(&[&json, END]);
                Bulk { form: Form::Deflated { blocks, sum }, ..self }
            }
            form => Bulk { form, ..self },
        }
    }
}

/// A whole body, in pieces.
pub struct Body<'a> {
    head: Vec<u8>,
    bulk: &'a [u8],
    tail: Vec<u8>,
    /// Whether it is a gzip file.
    pub is_gzip: bool,
}

impl<'a> Body<'a> {
    /// A request of `first` and, behind it, what is written already.
    pub fn new(first: &[Statement], bulk: &'a Bulk) -> Self {
        let mut head = START.to_vec();
        write(first, &mut head);
        if !first.is_empty() && bulk.statements > 0 {
            head.push(b',');
        }
        match &bulk.form {
            Form::Json(json) => Body { head, bulk: json, tail: END.to_vec(), is_gzip: false },
            Form::Deflated { blocks, sum } => {
                let mut whole = Crc::new();
                whole.update(&head);
                whole.combine(sum);
                let tail = [whole.sum().to_le_bytes(), whole.amount().to_le_bytes()].concat();
                Body { head: stored(&head), bulk: blocks, tail, is_gzip: true }
            }
        }
    }

    /// Nothing.
    pub fn empty() -> Self {
        Body { head: Vec::new(), bulk: &[], tail: Vec::new(), is_gzip: false }
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [&self.head, self.bulk, &self.tail]
    }

    /// How many bytes they have together.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same as a gzip file, whole, unless it is small.
    #[must_use]
    pub fn compressed(self) -> Self {
        if self.is_gzip || self.len() < COMPRESSED_FROM_BYTES {
            return self;
        }
        let (mut head, (blocks, sum)) = (GZIP_HEAD.to_vec(), deflate(&self.pieces()));
        head.extend(blocks);
        let tail = [sum.sum().to_le_bytes(), sum.amount().to_le_bytes()].concat();
        Body { head, bulk: &[], tail, is_gzip: true }
    }
}

/// Bytes that a statement has as JSON, if few of its characters are escaped: a row has about two quotes a column.
fn room(statement: &Statement) -> usize {
    let params: usize = statement.params.iter().map(|param| param.len() + param.len() / 4 + 4).sum();
    statement.sql.len() + statement.sql.len() / 8 + params + 32
}

fn write(statements: &[Statement], json: &mut Vec<u8>) {
    for (index, Statement { sql, params }) in statements.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        // Strings always have a JSON form, and memory takes what is written to it.
        let _ = serde_json::to_writer(&mut *json, &Entry { sql, params });
    }
}

/// The pieces as the last blocks of a gzip file, and their checksum.
fn deflate(pieces: &[&[u8]]) -> (Vec<u8>, Crc) {
    let (length, mut sum) = (pieces.iter().map(|piece| piece.len()).sum::<usize>(), Crc::new());
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(length / 4), Compression::fast());
    for piece in pieces {
        sum.update(piece);
        // Writing to memory does not fail.
        let _ = encoder.write_all(piece);
    }
    (encoder.finish().unwrap_or_default(), sum)
}

/// The beginning of a gzip file that holds these bytes as they are, in blocks behind which others follow.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut file = GZIP_HEAD.to_vec();
    for block in bytes.chunks(STORED_BYTES_MAX) {
        let length = block.len() as u16;
        // Not the last block, stored; the rest of the byte is padding.
        file.push(0);
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
    }
    file
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use serde_json::{Value, json};

    use super::*;

    fn statement(sql: &str, params: &[&str]) -> Statement {
        Statement { sql: sql.into(), params: params.iter().map(|&param| param.to_owned()).collect() }
    }

    fn read(body: &Body<'_>) -> Value {
        let bytes = body.pieces().concat();
        assert_eq!(bytes.len(), body.len());
        let mut text = String::new();
        match body.is_gzip {
            true => drop(GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap()),
            false => text = String::from_utf8(bytes).unwrap(),
        }
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_body_holds_what_stands_in_front_and_what_was_written_ahead_compressed_or_not() {
        // Longer than a stored block takes.
        let long = "a\"b".repeat(50_000);
        let fence = [statement("FENCE \"it\"", &["1", &long])];
        let rows = [statement("INSERT", &["[[1,\"ü\\n\"]]", &long]), statement("DELETE", &[])];
        let as_json = |statement: &Statement| json!({ "sql": &*statement.sql, "params": statement.params });
        for (first, rest) in
            [(&fence[..], &rows[..]), (&fence[..], &[]), (&[], &rows[..]), (&rows[..], &fence[..])]
        {
            let expected: Vec<Value> = first.iter().chain(rest).map(as_json).collect();
            let expected = json!({ "batch": expected });
            let bulk = Bulk::new(rest);
            assert_eq!(bulk.statements(), rest.len());
            let body = Body::new(first, &bulk);
            assert_eq!(read(&body), expected);
            let whole = body.compressed();
            assert!(whole.is_gzip);
            assert_eq!(read(&whole), expected);
            let bulk = bulk.compressed();
            let body = Body::new(first, &bulk);
            assert_eq!(body.is_gzip, !rest.is_empty());
            assert_eq!(read(&body), expected);
        }
    }
}
