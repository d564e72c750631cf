//! Binary values → cells, for tuples that pgoutput sends with `binary 'true'`. The result is the one that the text of
//! the same value has (see the table in [`value`](super::value)): a pair that has no shorter way writes that text on
//! the stack and converts it.
//!
//! Only the types whose binary form is simple and stable are read: bool, the integers, oid, the floats, bytea, the
//! text family, uuid, json, jsonb, date, timestamp and timestamptz. A value of any other type is rejected, so a plan
//! with such columns must ask for text.

use std::error::Error as StdError;

use postgres_protocol::types as wire;
use tokio_postgres::types::Type;

use super::cell::{Cell, push};
use super::json::JsonForm;
use super::rejection::Rejection;
use super::stack_text::{HEX_DIGITS, StackText};
use super::time::{TimeKind, push_unix_days, push_unix_parts, unix_days, unix_parts};
use super::value::{Conversion, pushed_since, real};
use crate::capture::table::Oid;

impl Conversion {
    /// Converts a value in Postgres' binary format; what the cell refers to is appended to the arena.
    ///
    /// # Errors
    ///
    /// The target cannot hold the value, or the type is not one that is read in binary. The arena is then as it was.
    pub fn binary(self, base_type: Oid, value: &[u8], arena: &mut Vec<u8>) -> Result<Cell, Rejection> {
        let Some(base_type) = Type::from_oid(base_type.0) else { return Err(unread()) };
        let start = arena.len();
        let mut text = StackText::new();
        match base_type {
            Type::BOOL => {
                let value = read(wire::bool_from_sql(value))?;
                self.text(if value { b"t" } else { b"f" }, arena)
            }
            Type::INT2 => self.binary_integer(read(wire::int2_from_sql(value))?.into(), arena),
            Type::INT4 => self.binary_integer(read(wire::int4_from_sql(value))?.into(), arena),
            Type::INT8 => self.binary_integer(read(wire::int8_from_sql(value))?, arena),
            Type::OID => self.binary_integer(read(wire::oid_from_sql(value))?.into(), arena),
            Type::FLOAT4 => {
                let value = read(wire::float4_from_sql(value))?;
                if self == Conversion::WidenedReal {
                    return Ok(real(f64::from(value)));
                }
                text.write_float4(value);
                self.text(text.as_bytes(), arena)
            }
            Type::FLOAT8 => {
                let value = read(wire::float8_from_sql(value))?;
                if self == Conversion::Real {
                    return Ok(real(value));
                }
                text.write_float8(value);
                self.text(text.as_bytes(), arena)
            }
            Type::DATE => {
                let days = read(wire::date_from_sql(value))?;
                let parts = unix_days(days).map(|days| (days * 86_400, 0));
                self.binary_time(TimeKind::Date, parts, days > 0, arena)
            }
            Type::TIMESTAMP | Type::TIMESTAMPTZ => {
                let micros = read(wire::timestamp_from_sql(value))?;
                let kind =
                    if base_type == Type::TIMESTAMP { TimeKind::Timestamp } else { TimeKind::Timestamptz };
                self.binary_time(kind, unix_parts(micros), micros > 0, arena)
            }
            Type::UUID => {
                let bytes = read(wire::uuid_from_sql(value))?;
                if self == Conversion::UuidBytes {
                    return Ok(Cell::Blob(push(arena, &bytes)));
                }
                text.write_uuid(bytes);
                self.text(text.as_bytes(), arena)
            }
            Type::BYTEA => match self {
                Conversion::Bytes => Ok(Cell::Blob(push(arena, value))),
                Conversion::Verbatim => {
                    arena.extend_from_slice(b"\\x");
                    push_hex(value, arena);
                    Ok(Cell::Text(pushed_since(start, arena)))
                }
                Conversion::Json(JsonForm::String) => {
                    arena.extend_from_slice(b"\"\\\\x");
                    push_hex(value, arena);
                    arena.push(b'"');
                    Ok(Cell::Text(pushed_since(start, arena)))
                }
                _ => Err(unread()),
            },
            Type::JSONB => match value {
                [1, json @ ..] => self.text(json, arena),
                _ => Err(Rejection::new("jsonb is of an unknown version")),
            },
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::CHAR
            | Type::XML
            | Type::UNKNOWN
            | Type::JSON => self.text(value, arena),
            _ => Err(unread()),
        }
    }

    fn binary_integer(self, value: i64, arena: &mut Vec<u8>) -> Result<Cell, Rejection> {
        match self {
            Conversion::Integer => Ok(Cell::Integer(value)),
            Conversion::NotZero => Ok(Cell::Integer(i64::from(value != 0))),
            _ => self.text(itoa::Buffer::new().format(value).as_bytes(), arena),
        }
    }

    /// Unix seconds and micros, or `None` for an infinity, which is the late or the early one.
    fn binary_time(
        self,
        kind: TimeKind,
        parts: Option<(i64, u32)>,
        is_late: bool,
        arena: &mut Vec<u8>,
    ) -> Result<Cell, Rejection> {
        let is_json = match self {
            Conversion::UnixSeconds(_) => {
                let infinity = if is_late { i64::MAX } else { i64::MIN };
                return Ok(Cell::Integer(parts.map_or(infinity, |(seconds, _)| seconds)));
            }
            Conversion::TimeText(_) => false,
            Conversion::Json(JsonForm::Time(_)) => true,
            _ => return Err(unread()),
        };
        let start = arena.len();
        if is_json {
            arena.push(b'"');
        }
        match (parts, kind) {
            (None, _) => arena.extend_from_slice(if is_late { b"infinity" } else { b"-infinity" }),
            (Some((seconds, _)), TimeKind::Date) => push_unix_days(arena, seconds.div_euclid(86_400)),
            (Some((seconds, micros)), TimeKind::Timestamp) => push_unix_parts(arena, seconds, micros),
            (Some((seconds, micros)), TimeKind::Timestamptz) => {
                push_unix_parts(arena, seconds, micros);
                arena.push(b'Z');
            }
        }
        if is_json {
            arena.push(b'"');
        }
        Ok(Cell::Text(pushed_since(start, arena)))
    }
}

fn read<T>(value: Result<T, Box<dyn StdError + Sync + Send>>) -> Result<T, Rejection> {
    value.map_err(|_| Rejection::new("value has the wrong length for its type's binary format"))
}

fn unread() -> Rejection {
    Rejection::new("the type is not read in binary")
}

fn push_hex(bytes: &[u8], arena: &mut Vec<u8>) {
    for byte in bytes {
        arena.extend_from_slice(&[HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests;
