//! One source value → one JSON value: the whole of a JSON column, or one element of an array. Nothing is built in
//! between; the bytes go straight to the arena.

use super::rejection::Rejection;
use super::time::TimeKind;

/// How the text of one source type is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonForm {
    /// A number with the digits that the server sent; NaN and the infinities, which JSON lacks, as strings.
    Number,
    /// `t` and `f` as `true` and `false`.
    Boolean,
    /// JSON already: embedded unchanged.
    Raw,
    /// A date or timestamp as a string in RFC 3339.
    Time(TimeKind),
    /// Anything else as a string.
    String,
}

impl JsonForm {
    /// Appends one value. The text must be UTF-8, and for `Raw` it must be JSON.
    ///
    /// # Errors
    ///
    /// The text is not what the form expects; something may have been appended then.
    pub fn push(self, text: &[u8], arena: &mut Vec<u8>) -> Result<(), Rejection> {
        match self {
            JsonForm::Number if is_number(text) => arena.extend_from_slice(text),
            JsonForm::Number if matches!(text, b"NaN" | b"Infinity" | b"-Infinity") => {
                push_string(text, arena)
            }
            JsonForm::Number => return Err(Rejection::new("not a number")),
            JsonForm::Boolean => arena.extend_from_slice(match text {
                b"t" => b"true".as_slice(),
                b"f" => b"false",
                _ => return Err(Rejection::new("not a boolean")),
            }),
            JsonForm::Raw => arena.extend_from_slice(text),
            JsonForm::Time(kind) => {
                arena.push(b'"');
                kind.push_rfc3339(text, arena)?;
                arena.push(b'"');
            }
            JsonForm::String => push_string(text, arena),
        }
        Ok(())
    }
}

/// Appends UTF-8 text as a JSON string.
pub fn push_string(text: &[u8], arena: &mut Vec<u8>) {
    arena.push(b'"');
    push_escaped(text, arena);
    arena.push(b'"');
}

/// Appends UTF-8 text with the escapes that a JSON string needs, without its quotes.
pub fn push_escaped(text: &[u8], arena: &mut Vec<u8>) {
    let mut rest = text;
    // Most texts need no escape at all and are copied in one piece.
    while let Some(at) = first_special(rest) {
        arena.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        match byte {
            b'"' | b'\\' => arena.extend_from_slice(&[b'\\', byte]),
            b'\n' => arena.extend_from_slice(b"\\n"),
            b'\r' => arena.extend_from_slice(b"\\r"),
            b'\t' => arena.extend_from_slice(b"\\t"),
            _ => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                arena.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    arena.extend_from_slice(rest);
}

/// Where the first byte lies that a JSON string cannot hold as it is.
#[inline]
fn first_special(text: &[u8]) -> Option<usize> {
    let is_special = |&b: &u8| (b < 0x20) | (b == b'"') | (b == b'\\');
    // Without an early exit inside a block, the compiler tests its sixteen bytes at once.
    let is_plain = |block: &&[u8]| !block.iter().fold(false, |found, b| found | is_special(b));
    let start = text.chunks_exact(16).take_while(is_plain).count() * 16;
    Some(start + text[start..].iter().position(is_special)?)
}

/// Whether the text is a number in JSON's grammar (RFC 8259, section 6). Every finite number that Postgres writes
/// is: it never leaves out the digit before a point.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(tail) = rest.strip_prefix(b".") {
        let fraction = digits(tail);
        if fraction == 0 {
            return false;
        }
        rest = &tail[fraction..];
    }
    if let [b'e' | b'E', tail @ ..] = rest {
        let tail = tail.strip_prefix(b"-").or(tail.strip_prefix(b"+")).unwrap_or(tail);
        let exponent = digits(tail);
        if exponent == 0 {
            return false;
        }
        rest = &tail[exponent..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(form: JsonForm, text: &str) -> Option<String> {
        let mut arena = Vec::new();
        form.push(text.as_bytes(), &mut arena).ok()?;
        Some(String::from_utf8(arena).unwrap())
    }

    #[test]
    fn numbers_keep_their_digits_and_what_json_lacks_becomes_a_string() {
        for text in ["0", "-0", "1.50", "12.000", "9223372036854775807", "1e+15", "5e-324", "-0.5", "1e400"] {
            assert_eq!(json(JsonForm::Number, text).as_deref(), Some(text));
        }
        assert_eq!(json(JsonForm::Number, "NaN").as_deref(), Some("\"NaN\""));
        assert_eq!(json(JsonForm::Number, "-Infinity").as_deref(), Some("\"-Infinity\""));
        for text in ["", "-", ".5", "5.", "01", "1e", "1e+", "1x", "+1", "nan", " 1"] {
            assert_eq!(json(JsonForm::Number, text), None, "{text:?}");
        }
    }

    #[test]
    fn the_other_forms_are_what_they_say() {
        assert_eq!(json(JsonForm::Boolean, "t").as_deref(), Some("true"));
        assert_eq!(json(JsonForm::Boolean, "f").as_deref(), Some("false"));
        assert_eq!(json(JsonForm::Boolean, "true"), None);
        assert_eq!(json(JsonForm::Raw, "{\"a\" : \"\\ud800\"}").as_deref(), Some("{\"a\" : \"\\ud800\"}"));
        assert_eq!(
            json(JsonForm::Time(TimeKind::Timestamptz), "2024-02-29 12:34:56.789+00").as_deref(),
            Some("\"2024-02-29T12:34:56.789Z\"")
        );
        assert_eq!(json(JsonForm::Time(TimeKind::Date), "0044-03-15 BC").as_deref(), Some("\"-0043-03-15\""));
        assert_eq!(json(JsonForm::Time(TimeKind::Date), "infinity").as_deref(), Some("\"infinity\""));
        assert_eq!(
            json(JsonForm::String, "a\"b\\c\n\r\t\u{1}\u{1f}ü").unwrap(),
            r#""a\"b\\c\n\r\t\u0001\u001fü""#
        );
    }

    proptest! {
        #[test]
        fn any_string_reads_back_from_json(text in any::<String>()) {
            let written = json(JsonForm::String, &text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }

        #[test]
        fn the_grammar_of_numbers_agrees_with_serde_json(text in "-?[0-9]{0,3}(\\.[0-9]{0,3})?([eE][-+]?[0-9]{0,2})?") {
            let expected = serde_json::from_str::<serde_json::value::Number>(&text);
            // serde_json refuses a number beyond f64; with two digits of exponent there is none.
            prop_assert_eq!(is_number(text.as_bytes()), expected.is_ok());
        }
    }
}
