//! Postgres' text of one scalar → the value that it spells, or the reason why there is none. Nothing is guessed:
//! spaces, signs and words that the server does not write are refused.

use std::str;

use super::rejection::Rejection;

pub(super) fn not(what: &str) -> Rejection {
    Rejection::new(format!("not {what} in Postgres' text format"))
}

pub(super) fn utf8(value: &[u8]) -> Result<&str, Rejection> {
    str::from_utf8(value).map_err(|_| Rejection::new("text is not valid UTF-8"))
}

/// The text without the spaces at its end, with which `char(n)` pads.
pub(super) fn without_padding(mut text: &[u8]) -> &[u8] {
    while let [shorter @ .., b' '] = text {
        text = shorter;
    }
    text
}

pub(super) fn boolean(value: &[u8]) -> Result<bool, Rejection> {
    match value {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(not("a boolean")),
    }
}

/// The number that `-?[0-9]+` spells, if 64 bits hold it.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // Eighteen digits always fit; the rare longer number is checked at every step. It is summed below zero, where
    // there is room for one number more.
    let digit = |&b: &u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    let negated = if digits.len() <= 18 {
        digits.iter().try_fold(0i64, |sum, b| Some(sum * 10 - digit(b)?))?
    } else {
        digits.iter().try_fold(0i64, |sum, b| sum.checked_mul(10)?.checked_sub(digit(b)?))?
    };
    if is_negative { Some(negated) } else { negated.checked_neg() }
}

pub(super) fn integral_numeric(text: &[u8]) -> Result<i64, Rejection> {
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &text[..0]),
    };
    if fraction.iter().any(|&b| b != b'0') {
        return Err(Rejection::new("numeric has a fraction and cannot be an INTEGER"));
    }
    integer(whole).ok_or_else(|| {
        Rejection::new(match text {
            b"NaN" | b"Infinity" | b"-Infinity" => "numeric is NaN or infinite and cannot be an INTEGER",
            _ => "numeric is beyond 64 bits and cannot be an INTEGER",
        })
    })
}

pub(super) fn integral_float(text: &[u8]) -> Result<i64, Rejection> {
    let float = float(text)?;
    // Both bounds are powers of two, hence exact; 2^63 itself is one too many.
    let bound = (1u64 << 63) as f64;
    if !float.is_finite() {
        Err(Rejection::new("float is NaN or infinite and cannot be an INTEGER"))
    } else if float.fract() != 0.0 {
        Err(Rejection::new("float has a fraction and cannot be an INTEGER"))
    } else if !(-bound..bound).contains(&float) {
        Err(Rejection::new("float is beyond 64 bits and cannot be an INTEGER"))
    } else {
        Ok(float as i64)
    }
}

pub(super) fn float(text: &[u8]) -> Result<f64, Rejection> {
    utf8(text)?.parse().map_err(|_| not("a float"))
}

pub(super) fn float4(text: &[u8]) -> Result<f32, Rejection> {
    utf8(text)?.parse().map_err(|_| not("a float"))
}

pub(super) fn nearest_real(text: &[u8]) -> Result<f64, Rejection> {
    let nearest: f64 = utf8(text)?.parse().map_err(|_| not("a number"))?;
    if nearest.is_infinite() && !text.ends_with(b"Infinity") {
        return Err(Rejection::new("number is beyond the range of a REAL"));
    }
    Ok(nearest)
}

pub(super) fn spelt_real(text: &[u8]) -> Result<f64, Rejection> {
    let text = without_padding(text);
    // The standard library reads `inf` and `nan` too, which in a text column are words.
    let is_decimal = text.iter().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match utf8(text)?.parse::<f64>() {
        Ok(float) if is_decimal && float.is_finite() => Ok(float),
        _ => Err(Rejection::new("text is not a decimal number within the range of a REAL")),
    }
}

/// Appends the bytes that a `bytea`'s text stands for. The session pins the hex format; a role or pooler may yet
/// force the escape format, which cannot be mistaken for it: a backslash there precedes only itself or three digits.
pub(super) fn push_bytea(text: &[u8], arena: &mut Vec<u8>) -> Result<(), Rejection> {
    if let Some(digits) = text.strip_prefix(b"\\x") {
        let start = arena.len();
        arena.resize(start + digits.len() / 2, 0);
        return hex::decode_to_slice(digits, &mut arena[start..]).map_err(|_| not("a bytea"));
    }
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match (byte, tail) {
            (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                ((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'), tail)
            }
            (b'\\', _) => return Err(not("a bytea")),
            plain => plain,
        };
        arena.push(byte);
        rest = tail;
    }
    Ok(())
}

pub(super) fn uuid(text: &[u8]) -> Result<[u8; 16], Rejection> {
    let mut digits = [0; 32];
    let mut bytes = [0; 16];
    let is_uuid = text.len() == 36 && [8, 13, 18, 23].iter().all(|&at| text[at] == b'-');
    if is_uuid {
        let groups = [(0, 0..8), (8, 9..13), (12, 14..18), (16, 19..23), (20, 24..36)];
        for (to, from) in groups {
            digits[to..to + from.len()].copy_from_slice(&text[from]);
        }
    }
    match hex::decode_to_slice(digits, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(not("a uuid")),
    }
}
