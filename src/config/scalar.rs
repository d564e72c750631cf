//! Scalars as files and variables write them: a number or a string that says the same. So `5000`, `"5000"` and
//! `"${ROWS}"` are equal.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A whole number.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    deserializer.deserialize_any(ScalarVisitor::<Count>(PhantomData)).map(|Count(count)| count)
}

/// A whole number that may be absent.
pub(super) fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    count(deserializer).map(Some)
}

/// A number of bytes that may be absent.
pub(super) fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    size(deserializer).map(Some)
}

/// `true` or `false`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    deserializer.deserialize_any(ScalarVisitor::<Flag>(PhantomData)).map(|Flag(flag)| flag)
}

/// `true` or `false`, that may be absent.
pub(super) fn some_flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    flag(deserializer).map(Some)
}

/// A number of bytes, with or without a unit.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    deserializer.deserialize_any(ScalarVisitor::<Size>(PhantomData)).map(|Size(size)| size)
}

/// A number of bytes that need not be there.
pub(super) fn maybe_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(|size| Some(size as u64))
}

/// A time with its unit.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(ScalarVisitor::<Time>(PhantomData)).map(|Time(time)| time)
}

/// A time that may be absent.
pub(super) fn some_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A string that is kept from sight.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.is_empty() {
        true => Err(D::Error::custom("must not be empty")),
        false => Ok(Some(SecretString::from(text))),
    }
}

trait Scalar: Sized {
    /// What errors say is expected.
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Option<Self>;
}

struct Count(usize);

impl Scalar for Count {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().map(Count)
    }
}

struct Flag(bool);

impl Scalar for Flag {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().map(Flag)
    }
}

struct Size(usize);

impl Scalar for Size {
    const EXPECTED: &'static str = "a number of bytes, such as 4096 or \"1MiB\"";

    fn parse(text: &str) -> Option<Self> {
        let size: ByteSize = text.trim().parse().ok()?;
        usize::try_from(size.as_u64()).ok().map(Size)
    }
}

struct Time(Duration);

impl Scalar for Time {
    const EXPECTED: &'static str = "a time with its unit, such as \"30s\" or \"50ms\"";

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text.trim()).ok().map(Time)
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).ok_or_else(|| E::custom(format!("expected {}", T::EXPECTED)))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
        self.visit_str(if flag { "true" } else { "false" })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}
