//! Rows in COPY's text format, as the server writes them: what a chunk of a backfill is read as.
//!
//! Enters: lines, each ended by a newline. Leaves: rows and their fields, borrowed; only a field with a backslash is
//! copied. Pure: the connection is `chunk`'s business. Any bytes give rows, never a panic; whether a row has as many
//! fields as were asked for is for the reader of the row to check.
//!
//! The server escapes backslash, `\b \f \n \r \t \v`, and writes NULL as `\N`; so a tab always ends a field and a
//! newline always ends a row. It writes no other escapes. Those that COPY FROM understands beyond that (octal,
//! hexadecimal, any other character for itself) are read as it reads them.
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html> ("Text Format").

use memchr::{memchr, memchr_iter};

/// Rows in COPY's text format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyRows {
    text: Vec<u8>,
    rows: usize,
}

impl CopyRows {
    /// Adds one row: a line with its newline, which is what the server sends as one message.
    pub fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            self.text.push(b'\n');
        }
        self.rows += 1;
    }

    /// How many rows were added.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many bytes the rows take.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The rows in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = CopyRow<'_>> {
        let mut start = 0;
        memchr_iter(b'\n', &self.text).map(move |end| {
            let row = CopyRow(&self.text[start..end]);
            start = end + 1;
            row
        })
    }

    /// The row that came last.
    pub fn last(&self) -> Option<CopyRow<'_>> {
        let text = self.text.strip_suffix(b"\n")?;
        Some(CopyRow(&text[memchr::memrchr(b'\n', text).map_or(0, |before| before + 1)..]))
    }
}

/// One row, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRow<'a>(&'a [u8]);

impl<'a> CopyRow<'a> {
    /// The fields in the order of the select list. A row always has at least one.
    pub fn fields(self) -> impl Iterator<Item = Field<'a>> {
        let mut rest = Some(self.0);
        std::iter::from_fn(move || {
            let text = rest?;
            let field = match memchr(b'\t', text) {
                Some(tab) => {
                    rest = Some(&text[tab + 1..]);
                    &text[..tab]
                }
                None => {
                    rest = None;
                    text
                }
            };
            Some(Field(field))
        })
    }
}

/// One value of a row, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a>(&'a [u8]);

impl<'a> Field<'a> {
    /// The value's text, or `None` for NULL. `scratch` holds it where it must be written anew; what was in there is
    /// lost.
    #[inline]
    pub fn text<'s>(self, scratch: &'s mut Vec<u8>) -> Option<&'s [u8]>
    where
        'a: 's,
    {
        match memchr(b'\\', self.0) {
            None => Some(self.0),
            Some(_) if self.0 == b"\\N" => None,
            Some(first) => {
                scratch.clear();
                unescape(self.0, first, scratch);
                Some(scratch)
            }
        }
    }
}

/// Appends the text; its first backslash is at `at`.
fn unescape(text: &[u8], mut at: usize, out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let (byte, taken) = match rest {
            // COPY FROM takes a backslash at the very end for itself.
            [] => (b'\\', 0),
            [b'b', ..] => (0x08, 1),
            [b'f', ..] => (0x0c, 1),
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'v', ..] => (0x0b, 1),
            [b'x', digits @ ..] => match number(digits, 16, 2) {
                (_, 0) => (b'x', 1),
                (byte, taken) => (byte, taken + 1),
            },
            [b'0'..=b'7', ..] => number(rest, 8, 3),
            [other, ..] => (*other, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
        match memchr(b'\\', rest) {
            Some(next) => at = next,
            None => return out.extend_from_slice(rest),
        }
    }
}

/// The number that up to `digits_max` digits spell, cut to a byte, and how many digits they are.
fn number(text: &[u8], radix: u32, digits_max: usize) -> (u8, usize) {
    let digits = text.iter().take(digits_max).map_while(|&digit| char::from(digit).to_digit(radix));
    let (value, taken) = digits.fold((0, 0), |(value, taken), digit| (value * radix + digit, taken + 1));
    (value as u8, taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(text: &[u8]) -> Vec<Vec<Option<Vec<u8>>>> {
        let mut rows = CopyRows::default();
        text.split_inclusive(|&byte| byte == b'\n').for_each(|line| rows.push(line));
        let mut scratch = Vec::new();
        let read = |row: CopyRow<'_>, scratch: &mut Vec<u8>| {
            row.fields().map(|field| field.text(scratch).map(<[u8]>::to_vec)).collect::<Vec<_>>()
        };
        let read: Vec<_> = rows.iter().map(|row| read(row, &mut scratch)).collect();
        assert_eq!(read.len(), rows.len());
        read
    }

    /// As `CopyAttributeOutText` writes a value.
    fn copy_out(value: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(value) = value else { return out.extend_from_slice(b"\\N") };
        for &byte in value {
            match byte {
                0x08 => out.extend_from_slice(b"\\b"),
                0x0c => out.extend_from_slice(b"\\f"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0x0b => out.extend_from_slice(b"\\v"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte => out.push(byte),
            }
        }
    }

    #[test]
    fn fields_are_read_as_copy_from_reads_them() {
        let some = |text: &[u8]| Some(text.to_vec());
        let table: [(&[u8], Option<Vec<u8>>); 14] = [
            (b"", some(b"")),
            (b"\\N", None),
            (b"\\\\N", some(b"\\N")),
            (b"a\\\\", some(b"a\\")),
            (b"a\\", some(b"a\\")),
            (b"\\b\\f\\n\\r\\t\\v", some(b"\x08\x0c\n\r\t\x0b")),
            (b"\\0\\12\\101\\1019", some(b"\0\nAA9")),
            (b"\\777", some(b"\xff")),
            (b"\\x41\\x4\\x041\\xg", some(b"A\x04\x041xg")),
            (b"\\x", some(b"x")),
            (b"\\.\\q\\8", some(b".q8")),
            (b"\\NN", some(b"NN")),
            (b"\\\\x00ff", some(b"\\x00ff")),
            ("ü\\\\€".as_bytes(), some("ü\\€".as_bytes())),
        ];
        for (text, expected) in table {
            assert_eq!(rows(&[text, b"\n"].concat()), [[expected]], "{}", text.escape_ascii());
        }
    }

    #[test]
    fn rows_end_at_newlines_and_fields_at_tabs() {
        let mut rows = CopyRows::default();
        assert_eq!(rows.last(), None);
        rows.push(b"1\t\\N\t\n");
        assert_eq!(rows.last(), Some(CopyRow(b"1\t\\N\t")));
        rows.push(b"");
        rows.push(b"2\ta");
        assert_eq!((rows.len(), rows.bytes()), (3, 11));
        assert_eq!(rows.iter().map(|row| row.fields().count()).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(rows.last(), Some(CopyRow(b"2\ta")));
    }

    fn any_value() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![2 => any::<u8>(), 3 => prop::sample::select(b"\\\t\n\r\x08\x0b\x0cNnx0123.\0".to_vec())];
        prop::option::of(prop::collection::vec(byte, 0..12))
    }

    proptest! {
        #[test]
        fn what_the_server_writes_reads_back(
            table in (1..5usize).prop_flat_map(|width| {
                prop::collection::vec(prop::collection::vec(any_value(), width..=width), 0..6)
            }),
        ) {
            let mut text = Vec::new();
            for row in &table {
                for (index, value) in row.iter().enumerate() {
                    if index > 0 {
                        text.push(b'\t');
                    }
                    copy_out(value.as_deref(), &mut text);
                }
                text.push(b'\n');
            }
            prop_assert_eq!(rows(&text), table);
        }

        #[test]
        fn any_bytes_are_rows(text in prop::collection::vec(any::<u8>(), 0..60)) {
            for row in rows(&text) {
                prop_assert!(!row.is_empty());
            }
        }
    }
}
