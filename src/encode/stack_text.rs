//! Postgres' text of floats and uuids, written on the stack from their binary values, digit by digit as the server
//! writes it with `extra_float_digits` 3.

use std::fmt::{self, Write};
use std::str::{self, FromStr};

/// Lower-case hexadecimal digits.
pub const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A short text on the stack. The longest one, a float with thirty digits more than it needs, has room to spare.
#[derive(Clone, Copy)]
pub struct StackText {
    bytes: [u8; 64],
    len: usize,
}

impl StackText {
    /// An empty text.
    pub fn new() -> Self {
        StackText { bytes: [0; 64], len: 0 }
    }

    /// What has been written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends what fits; nothing that is written here is longer.
    fn push(&mut self, text: &[u8]) {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text[..len]);
        self.len += len;
    }

    /// Writes a uuid in lower case with its hyphens.
    pub fn write_uuid(&mut self, bytes: [u8; 16]) {
        for (index, byte) in bytes.into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                self.push(b"-");
            }
            self.push(&[HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 15)]]);
        }
    }

    /// Writes a float as `float8out` does.
    pub fn write_float8(&mut self, value: f64) {
        if value.is_finite() { self.write_finite(value, value == 0.0, 15) } else { self.write_special(value) }
    }

    /// Writes a float as `float4out` does.
    pub fn write_float4(&mut self, value: f32) {
        if value.is_finite() {
            self.write_finite(value, value == 0.0, 6)
        } else {
            self.write_special(value.into())
        }
    }

    fn write_special(&mut self, value: f64) {
        self.push(match value {
            f64::INFINITY => b"Infinity",
            f64::NEG_INFINITY => b"-Infinity",
            _ => b"NaN",
        });
    }

    /// Writes the digits that Postgres chooses: with an exponent of two digits or more where it is below -4 or at
    /// least `exponent_min`, else plainly.
    fn write_finite<F: Float>(&mut self, value: F, is_zero: bool, exponent_min: i32) {
        let digits = if is_zero { StackText::scientific(value, None) } else { postgres_digits(value) };
        let mut rest = digits.as_bytes();
        if let [b'-', tail @ ..] = rest {
            self.push(b"-");
            rest = tail;
        }
        let (mantissa, exponent) = split_exponent(rest);
        let exponent: i32 = str::from_utf8(exponent).ok().and_then(|e| e.parse().ok()).unwrap_or(0);
        if exponent < -4 || exponent >= exponent_min {
            self.push(mantissa);
            let sign = if exponent < 0 { '-' } else { '+' };
            let _ = write!(self, "e{sign}{:02}", exponent.unsigned_abs());
            return;
        }
        let first = &mantissa[..1];
        let others = mantissa.get(2..).unwrap_or_default();
        match usize::try_from(exponent) {
            Err(_) => {
                self.push(b"0.");
                (1..exponent.unsigned_abs()).for_each(|_| self.push(b"0"));
                self.push(first);
                self.push(others);
            }
            Ok(whole) if others.len() <= whole => {
                self.push(first);
                self.push(others);
                (others.len()..whole).for_each(|_| self.push(b"0"));
            }
            Ok(whole) => {
                self.push(first);
                self.push(&others[..whole]);
                self.push(b".");
                self.push(&others[whole..]);
            }
        }
    }

    /// A float as Rust writes it, `-d.ddde-x`: with that many digits behind the point, rounded half to even, or with
    /// the fewest that read back as the same float.
    fn scientific<F: Float>(value: F, precision: Option<usize>) -> StackText {
        let mut text = StackText::new();
        let _ = match precision {
            Some(precision) => write!(text, "{value:.precision$e}"),
            None => write!(text, "{value:e}"),
        };
        text
    }
}

/// What [`StackText`] needs of `f32` and `f64`.
trait Float: fmt::LowerExp + FromStr + PartialEq + Copy {}
impl Float for f32 {}
impl Float for f64 {}

/// The digits that Postgres chooses for a finite float other than zero, as Rust writes them.
///
/// Both take the fewest digits that read back as the same float, but they differ twice (see `acceptBounds` in
/// src/common/d2s.c). Where two spellings are equally near, Postgres takes the even one. And Postgres never takes a
/// spelling halfway between two floats, which only a reader that rounds half to even gives back to the right one.
fn postgres_digits<F: Float>(value: F) -> StackText {
    let shortest = StackText::scientific(value, None);
    let (mantissa, _) = split_exponent(shortest.as_bytes());
    let precision_min = match mantissa.iter().position(|&b| b == b'.') {
        Some(point) => mantissa.len() - point - 1,
        None => 0,
    };
    let rounded = StackText::scientific(value, Some(precision_min));
    for candidate in [&rounded, &shortest] {
        if is_surely(candidate, value) {
            return *candidate;
        }
    }
    // Seventeen digits tell every float from its neighbours.
    (precision_min + 1..17)
        .map(|precision| StackText::scientific(value, Some(precision)))
        .find(|candidate| is_surely(candidate, value))
        .unwrap_or(shortest)
}

/// Whether a spelling lies between the two points that are halfway to the float's neighbours, and not on one: then
/// what lies a little above and a little below it still reads as the same float. "A little" is less than any
/// spelling of 17 digits can come near such a point without being it.
fn is_surely<F: Float>(spelling: &StackText, value: F) -> bool {
    let (mantissa, exponent) = split_exponent(spelling.as_bytes());
    let Some((last @ b'1'..=b'9', others)) = mantissa.split_last() else {
        // A zero at the end adds nothing to the shorter spelling, which has been tried.
        return false;
    };
    let has_point = others.contains(&b'.');
    [(*last, b"000000000000000000000000000001"), (last - 1, b"999999999999999999999999999999")]
        .into_iter()
        .all(|(last, little)| {
            let mut text = StackText::new();
            text.push(others);
            text.push(&[last]);
            text.push(if has_point { b"" } else { b"." });
            text.push(little);
            text.push(b"e");
            text.push(exponent);
            str::from_utf8(text.as_bytes()).ok().and_then(|text| text.parse().ok()) == Some(value)
        })
}

fn split_exponent(scientific: &[u8]) -> (&[u8], &[u8]) {
    let split = scientific.iter().position(|&b| b == b'e').unwrap_or(scientific.len());
    (&scientific[..split], scientific.get(split + 1..).unwrap_or_default())
}

impl fmt::Write for StackText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn float8(value: f64) -> String {
        let mut text = StackText::new();
        text.write_float8(value);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    fn float4(value: f32) -> String {
        let mut text = StackText::new();
        text.write_float4(value);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn digits_are_chosen_as_by_the_server() {
        // Bits and texts are from Postgres 15; Rust alone would write each of these otherwise.
        let doubles = [
            (0x44b5_2d02_c7e1_4af6, "9.999999999999999e+22"),
            (0x3e60_0000_0000_0000, "2.9802322387695312e-08"),
            (0x438e_cb04_636d_376c, "2.7735900831134042e+17"),
            (0x4373_ec41_4f49_fd0c, "8.972463687649299e+16"),
            (0x431e_982e_1cea_d231, "2.1528932805971322e+15"),
            (0x430b_22d7_125e_9852, "954766436586250.2"),
        ];
        for (bits, text) in doubles {
            assert_eq!(float8(f64::from_bits(bits)), text);
            assert_eq!(float8(-f64::from_bits(bits)), format!("-{text}"));
        }
        let singles = [
            (0x3980_0000, "0.00024414062"),
            (0x4a13_fdad, "2.4246832e+06"),
            (0x4ca3_1806, "8.5508144e+07"),
            (0x4764_4450, "58436.312"),
        ];
        for (bits, text) in singles {
            assert_eq!(float4(f32::from_bits(bits)), text);
        }
    }

    proptest! {
        #[test]
        fn any_float_reads_back(double in any::<u64>(), single in any::<u32>()) {
            let (double, single) = (f64::from_bits(double), f32::from_bits(single));
            let read: f64 = float8(double).parse().unwrap();
            prop_assert!(read.to_bits() == double.to_bits() || double.is_nan());
            let read: f32 = float4(single).parse().unwrap();
            prop_assert!(read.to_bits() == single.to_bits() || single.is_nan());
        }
    }
}
