//! Values at the edges of their types, and the transaction that writes each of them.

use std::fmt::Write;

use crate::postgres::quote_literal;

/// Texts that a careless writer of SQL or JSON gets wrong.
pub(super) const NAMES: [&str; 10] = [
    "",
    " ",
    r"C:\apps\new\\table",
    r#"{"not": "json", 'quoted'}"#,
    "tabs\tand\nlines\r\n",
    "Grüße, 世界, שלום, 🦀👩‍👩‍👧",
    "\u{1}control\u{1f}\u{7f}",
    "e\u{301} is not é",
    "\\x00",
    "NULL",
];
/// Up to 38 digits, and none at all.
pub(super) const NUMERICS: [&str; 9] = [
    "NaN",
    "99999999999999999999999999999999999999",
    "-0.00000000000000000000000000000000000001",
    "12345678901234567890.123456789012345678",
    "0",
    "-1.50",
    "1e20",
    "1e-20",
    "3.000",
];
/// What JSON or SQLite has no number for, and the ends of the range.
pub(super) const FLOATS: [&str; 8] = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1.7976931348623157e308",
    "5e-324",
    "0.1",
    "-2.2250738585072014e-308",
    "9007199254740993",
];
/// Before 1970, before year 1, after 9999, and never.
pub(super) const TIMES: [&str; 9] = [
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00+00 BC",
    "0001-12-31 23:59:59.999999+00 BC",
    "0001-01-01 00:00:00+00",
    "1969-12-31 23:59:59.5+00",
    "1970-01-01 05:45:00+05:45",
    "9999-12-31 23:59:59.999999+00",
    "294276-12-31 23:59:59.999999+00",
];
/// Bytes, as Postgres spells them.
pub(super) const ICONS: [&str; 5] = [r"\x", r"\x00", r"\x0000ff00", r"\xdeadbeef", r"\x5c7830305c"];
/// JSON.
pub(super) const DOCUMENTS: [&str; 6] = [
    "null",
    r#""a \"text\" with \\ and \u00e9""#,
    r#"{"id": 9223372036854775807, "price": 0.10, "deep": {"list": [1, [2, {"three": null}]]}}"#,
    "[]",
    "{}",
    r#"{"": "empty key", "🦀": true, "large": 123456789012345678901234567890}"#,
];
/// Arrays of text, with NULLs, quotes, dimensions and bounds.
pub(super) const ARRAYS: [&str; 5] = [
    "{}",
    r#"{a,NULL,"NULL",""}"#,
    r#"{"with \"quotes\"","back\\slash","comma, brace {}"}"#,
    "{{a,b},{c,d}}",
    "[0:1]={x,y}",
];
/// The ends of 64 bits, and of what a float can count.
pub(super) const INTEGERS: [&str; 8] = [
    "-9223372036854775808",
    "9223372036854775807",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993",
    "0",
    "-1",
];

/// One row for every extreme value, the one that all writers change, and a text of 1 MiB.
pub(super) fn insert() -> String {
    let mut sql = String::new();
    let at = |values: &[&'static str], index: usize| quote_literal(values[index % values.len()]);
    for (index, id) in INTEGERS.into_iter().enumerate() {
        for offset in [0, INTEGERS.len()] {
            let index = index + offset;
            // The keys of the second round lie between those of the writers.
            let id = if offset == 0 { id.to_owned() } else { (100 + index).to_string() };
            let _ = write!(
                sql,
                "INSERT INTO apps VALUES ({id}, {}, true, {}, {}, {}, {}, {}, {}, {}, {}); ",
                at(&NAMES, index),
                at(&NUMERICS, index),
                at(&FLOATS, index),
                at(&TIMES, index),
                at(&TIMES, index + 1),
                at(&DOCUMENTS, index),
                at(&ARRAYS, index),
                at(&ICONS, index),
                if index == 3 { "repeat('wal cast', 131072)" } else { "''" },
            );
        }
    }
    sql
}
