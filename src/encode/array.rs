//! Postgres' array text → a JSON array, in one pass and without a stack: `{1,NULL,"a\"b"}` → `[1,null,"a\"b"]`.
//!
//! The grammar is `array_out`'s (src/backend/utils/adt/arrayfuncs.c): an element is quoted if it is empty, spells
//! NULL, or holds a brace, a quote, a backslash, white space or the delimiter; inside quotes a backslash precedes a
//! quote or a backslash. Lower bounds other than 1 stand in front (`[0:2]={…}`) and are dropped: JSON has no place
//! for them.

use super::json::{JsonForm, push_escaped};
use super::rejection::Rejection;

/// Postgres' own limit on the dimensions of an array (`MAXDIM`).
const DEPTH_MAX: usize = 6;

/// Appends an array's text, which must be UTF-8, as a JSON array. The delimiter is the element type's `typdelim`: a
/// comma, but for `box`.
///
/// # Errors
///
/// The text is not an array, or an element is not what the form expects; something may have been appended then.
pub fn push_json_array(
    text: &[u8],
    form: JsonForm,
    delimiter: u8,
    arena: &mut Vec<u8>,
) -> Result<(), Rejection> {
    let mut rest = without_bounds(text)?;
    let mut depth = 0;
    loop {
        // Here a value must stand: an opening brace or, inside one, an element.
        match rest {
            [b'{', tail @ ..] if depth < DEPTH_MAX => {
                depth += 1;
                arena.push(b'[');
                rest = tail;
                if rest.first() != Some(&b'}') {
                    continue;
                }
            }
            _ if depth == 0 => return Err(malformed()),
            [b'"', tail @ ..] => rest = push_quoted(tail, form, arena)?,
            _ => rest = push_bare(rest, form, delimiter, arena)?,
        }
        // Here one has ended: braces may close, and then a delimiter or the end must follow.
        loop {
            match rest {
                [b'}', tail @ ..] => {
                    arena.push(b']');
                    depth -= 1;
                    rest = tail;
                    if depth == 0 {
                        return if rest.is_empty() { Ok(()) } else { Err(malformed()) };
                    }
                }
                [byte, tail @ ..] if *byte == delimiter => {
                    arena.push(b',');
                    rest = tail;
                    break;
                }
                _ => return Err(malformed()),
            }
        }
    }
}

/// The text from its first brace on, behind bounds such as `[1:1][-2:-1]=`.
fn without_bounds(text: &[u8]) -> Result<&[u8], Rejection> {
    if text.first() != Some(&b'[') {
        return Ok(text);
    }
    let end = text.iter().position(|&b| b == b'=').ok_or_else(malformed)?;
    let is_bound = |b: &u8| matches!(b, b'[' | b']' | b':' | b'-' | b'+' | b'0'..=b'9');
    if text[..end].iter().all(is_bound) { Ok(&text[end + 1..]) } else { Err(malformed()) }
}

/// Appends the element whose opening quote has been read; returns what follows its closing quote.
fn push_quoted<'a>(text: &'a [u8], form: JsonForm, arena: &mut Vec<u8>) -> Result<&'a [u8], Rejection> {
    let is_mark = |&b: &u8| b == b'"' || b == b'\\';
    let mut at = text.iter().position(is_mark).ok_or_else(malformed)?;
    if text[at] == b'"' {
        form.push(&text[..at], arena)?;
        return Ok(&text[at + 1..]);
    }
    // An element with backslashes is written piece by piece, so that it needs no copy. Only strings and JSON hold
    // any.
    let push_piece: fn(&[u8], &mut Vec<u8>) = match form {
        JsonForm::String => push_escaped,
        JsonForm::Raw => |piece, arena| arena.extend_from_slice(piece),
        JsonForm::Number | JsonForm::Boolean | JsonForm::Time(_) => return Err(malformed()),
    };
    let quote: &[u8] = if form == JsonForm::String { b"\"" } else { b"" };
    arena.extend_from_slice(quote);
    let mut rest = text;
    loop {
        push_piece(&rest[..at], arena);
        if rest[at] == b'"' {
            arena.extend_from_slice(quote);
            return Ok(&rest[at + 1..]);
        }
        let [_, escaped @ (b'"' | b'\\'), tail @ ..] = &rest[at..] else { return Err(malformed()) };
        push_piece(&[*escaped], arena);
        rest = tail;
        at = rest.iter().position(is_mark).ok_or_else(malformed)?;
    }
}

/// Appends the element without quotes that stands first; returns what follows it.
fn push_bare<'a>(
    text: &'a [u8],
    form: JsonForm,
    delimiter: u8,
    arena: &mut Vec<u8>,
) -> Result<&'a [u8], Rejection> {
    let ends = |&b: &u8| b == delimiter || matches!(b, b'{' | b'}' | b'"' | b'\\');
    let (element, rest) = text.split_at(text.iter().position(ends).ok_or_else(malformed)?);
    match element {
        b"" => return Err(malformed()),
        b"NULL" => arena.extend_from_slice(b"null"),
        _ => form.push(element, arena)?,
    }
    Ok(rest)
}

fn malformed() -> Rejection {
    Rejection::new("not an array in Postgres' text format")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::time::TimeKind;
    use proptest::prelude::*;
    use serde_json::Value;

    fn json(form: JsonForm, delimiter: u8, text: &str) -> Option<String> {
        let mut arena = Vec::new();
        push_json_array(text.as_bytes(), form, delimiter, &mut arena).ok()?;
        Some(String::from_utf8(arena).unwrap())
    }

    #[test]
    fn arrays_as_the_server_writes_them_become_json() {
        use JsonForm::{Boolean, Number, Raw, String, Time};
        let date = Time(TimeKind::Date);
        let timestamp = Time(TimeKind::Timestamp);
        let timestamptz = Time(TimeKind::Timestamptz);
        let table = [
            (Number, "{1,NULL,-3}", "[1,null,-3]"),
            (Number, "[0:2]={1,2,3}", "[1,2,3]"),
            (Number, "[1:1][-2:-1]={{1,2}}", "[[1,2]]"),
            (Number, "{}", "[]"),
            (Number, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
            (Number, "{NaN,1.50,Infinity,-Infinity}", r#"["NaN",1.50,"Infinity","-Infinity"]"#),
            (Number, "{NaN,0.1,Infinity,-0,1e-300}", r#"["NaN",0.1,"Infinity",-0,1e-300]"#),
            (Boolean, "{t,f,NULL}", "[true,false,null]"),
            (String, "{{{a,b},{c,NULL}}}", r#"[[["a","b"],["c",null]]]"#),
            (
                String,
                "{\"a,b\",\"c\\\"d\",\"e\\\\f\",\"\",\"NULL\",NULL,\"null\",\" x \",\"tab\tnl\n\",\"{}\",plain,ü,a;b,\"x y\"}",
                r#"["a,b","c\"d","e\\f","","NULL",null,"null"," x ","tab\tnl\n","{}","plain","ü","a;b","x y"]"#,
            ),
            (
                timestamp,
                r#"{"2024-02-29 12:34:56.789",infinity,NULL,"4713-01-01 00:00:00 BC"}"#,
                r#"["2024-02-29T12:34:56.789","infinity",null,"-4712-01-01T00:00:00"]"#,
            ),
            (timestamptz, r#"{"2024-02-29 12:34:56.789+00"}"#, r#"["2024-02-29T12:34:56.789Z"]"#),
            (date, r#"{"0044-03-15 BC",2024-01-01}"#, r#"["-0043-03-15","2024-01-01"]"#),
            (String, "{24:00:00}", r#"["24:00:00"]"#),
            (
                Raw,
                r#"{"{\"a\": [1,\"x\\\"y\"]}","null",1,"\"\\ud800\""}"#,
                r#"[{"a": [1,"x\"y"]},null,1,"\ud800"]"#,
            ),
            (String, r#"{"\\x00ff","\\x"}"#, r#"["\\x00ff","\\x"]"#),
        ];
        for (form, text, expected) in table {
            assert_eq!(json(form, b',', text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(
            json(String, b';', "{(1,1),(0,0);(4,5),(2,3)}").as_deref(),
            Some(r#"["(1,1),(0,0)","(4,5),(2,3)"]"#)
        );
    }

    #[test]
    fn what_array_out_never_writes_is_rejected() {
        for text in [
            "",
            "1",
            "{",
            "}",
            "{1",
            "{1,}",
            "{,1}",
            "{1}}",
            "{1} ",
            "{{1}",
            "[0:1]",
            "[0:1]={1",
            "[x]={1}",
            "{\"1",
            "{\"1\\",
            "{\"a\"b}",
            "{a\"b\"}",
            "{a{b}}",
            "{{{{{{{1}}}}}}}",
            "{1}{2}",
            "{1;2}",
        ] {
            assert_eq!(json(JsonForm::Number, b',', text), None, "{text}");
            if text != "{1;2}" {
                assert_eq!(json(JsonForm::String, b',', text), None, "{text}");
            }
        }
    }

    /// Writes a JSON model as `array_out` would.
    fn array_out(value: &Value, text: &mut String) {
        match value {
            Value::Null => text.push_str("NULL"),
            Value::String(string) => {
                let needs_quotes = string.is_empty()
                    || string.eq_ignore_ascii_case("null")
                    || string.contains(|c: char| "{}\",\\ \t\n\r\u{b}\u{c}".contains(c));
                if needs_quotes {
                    text.push_str(&format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\"")));
                } else {
                    text.push_str(string);
                }
            }
            Value::Array(items) => {
                text.push('{');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    array_out(item, text);
                }
                text.push('}');
            }
            other => unreachable!("the model has no {other}"),
        }
    }

    fn nested_strings() -> impl Strategy<Value = Value> {
        let string = prop_oneof!["[a-c{}\",\\\\ \n]{0,6}", any::<String>(), Just("NULL".to_owned())];
        let element = prop_oneof![1 => Just(Value::Null), 5 => string.prop_map(Value::String)];
        let row = prop::collection::vec(element, 1..5).prop_map(Value::Array);
        row.prop_recursive(4, 32, 4, |inner| prop::collection::vec(inner, 1..4).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn nested_strings_read_back_from_json(model in nested_strings()) {
            let mut text = String::new();
            array_out(&model, &mut text);
            let written = json(JsonForm::String, b',', &text).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), model);
        }

        #[test]
        fn whatever_is_accepted_is_json(text in "[\\[\\]0-2:={},\"\\\\aN;]{0,24}") {
            if let Some(written) = json(JsonForm::String, b',', &text) {
                prop_assert!(serde_json::from_str::<Value>(&written).is_ok(), "{}", written);
            }
        }
    }
}
