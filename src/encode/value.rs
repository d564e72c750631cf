//! Source values → cells. A [`Conversion`] is chosen once per column when the plan is made, and then turns every
//! value's text into a [`Cell`] without allocating: text and bytes go to the arena.
//!
//! The server's text settings are pinned by the session: `datestyle` ISO, `timezone` UTC, `intervalstyle` iso_8601,
//! `extra_float_digits` 3, `bytea_output` hex. What each type becomes:
//!
//! | Target | Source | Result |
//! |---|---|---|
//! | INTEGER | int2, int4, int8, oid | exact to 64 bits |
//! | | bool | 1 or 0 |
//! | | numeric, float4, float8 | exact if integral (also `12.000`, `1e+15`) and within 64 bits; else rejected, as are NaN and the infinities |
//! | | date, timestamp, timestamptz | unix seconds, rounded down, before 1970 too; `infinity` is `i64::MAX`, `-infinity` is `i64::MIN` |
//! | | text family | `-?[0-9]+`, behind which spaces may stand (`char(n)` pads); else rejected |
//! | REAL | float8, float4 | the same number (a float4 is widened, as Postgres' own cast does); NaN is NULL and -0 is 0, because SQLite holds neither; the infinities are kept |
//! | | int2, int4, oid | exact |
//! | | int8, numeric | the nearest float; a numeric beyond the range of a float is rejected |
//! | | text family | a decimal number (`1.5e-3`), to the nearest float; else rejected |
//! | TEXT | timestamptz | RFC 3339 in UTC with `Z` |
//! | | timestamp, date | RFC 3339 without an offset |
//! | | bool | `true` or `false` |
//! | | anything else | the server's text unchanged: all digits of a numeric, `\x…` of a bytea, `24:00:00`, `{…}` of an array, an empty string |
//! | BOOLEAN | bool | 1 or 0 |
//! | | int2, int4, int8, oid | 0 if zero, else 1 |
//! | | text family | `t`, `true`, `f`, `false`, padding as above; else rejected |
//! | JSON | json, jsonb | unchanged, byte by byte |
//! | | numbers | a JSON number with the server's digits; NaN and the infinities as strings |
//! | | bool | `true` or `false` |
//! | | arrays | a JSON array; NULL elements are `null`, bounds are dropped, elements become what their type becomes in this part of the table |
//! | | anything else | what it is as TEXT, as a JSON string |
//! | BLOB | bytea | its bytes |
//! | | uuid | its 16 bytes |
//! | | text family, json, jsonb | their UTF-8 bytes |
//!
//! Years before 1 AD and after 9999 follow ISO 8601's expanded form (see [`time`](super::time)); `infinity` and
//! `-infinity` stay as they are in TEXT and JSON. The text family is text, varchar, char, name, "char", xml and
//! literals of no known type. Any other pair is [`Unsupported`]. Text that is not UTF-8, which a database with
//! encoding SQL_ASCII can hold, is rejected everywhere but in a BLOB.
//!
//! Never guesses: a value is converted exactly as written here, or rejected.

use std::fmt;

use tokio_postgres::types::{Kind, Type};

use super::array::push_json_array;
use super::cell::{Cell, Slice, push};
use super::column_type::ColumnType;
use super::json::JsonForm;
pub use super::rejection::Rejection;
use super::scalar::{
    boolean, float, float4, integer, integral_float, integral_numeric, nearest_real, not, push_bytea,
    spelt_real, utf8, uuid, without_padding,
};
use super::time::TimeKind;
use crate::capture::table::Oid;

#[cfg(test)]
mod tests;

/// How one source type becomes one target type. Chosen once when the plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// An integer of up to 64 bits, as it is.
    Integer,
    /// `t` and `f` as 1 and 0.
    Boolean,
    /// A numeric without a fraction.
    IntegralNumeric,
    /// A float without a fraction.
    IntegralFloat,
    /// Text that spells an integer.
    SpeltInteger,
    /// Unix seconds of a date or timestamp.
    UnixSeconds(TimeKind),
    /// A `float8`.
    Real,
    /// A `float4`, widened.
    WidenedReal,
    /// The float nearest to an integer or numeric.
    NearestReal,
    /// Text that spells a decimal number.
    SpeltReal,
    /// The server's text, or JSON, unchanged.
    Verbatim,
    /// `t` and `f` as `true` and `false`.
    BooleanText,
    /// RFC 3339.
    TimeText(TimeKind),
    /// Whether an integer is not zero.
    NotZero,
    /// Text that spells a boolean.
    SpeltBoolean,
    /// One JSON value.
    Json(JsonForm),
    /// A JSON array.
    JsonArray {
        /// How its elements are written.
        element: JsonForm,
        /// What stands between them in Postgres' text.
        delimiter: u8,
    },
    /// The bytes that a `bytea`'s text stands for.
    Bytes,
    /// The 16 bytes of a uuid.
    UuidBytes,
    /// The bytes of the text itself.
    TextBytes,
}

/// What a conversion does to the values of its source type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// Every value keeps its meaning, as the table of this module defines it.
    Exact,
    /// Some values lose something or are rejected; says which and what.
    Lossy(&'static str),
}

/// A source type has no defined result in a target type. `Display` says so and names the target types that work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    source: Option<String>,
    target: ColumnType,
    /// The target types that this source type has results in.
    pub possible: Vec<ColumnType>,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_deref().unwrap_or("this type");
        write!(f, "{source} cannot become {}; possible: ", self.target.as_str())?;
        for (index, target) in self.possible.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, target.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for Unsupported {}

/// Source types that share their conversions.
#[derive(Clone, Copy)]
enum Source {
    Boolean,
    SmallInteger,
    BigInteger,
    Numeric,
    Float4,
    Float8,
    Text,
    Json,
    Bytea,
    Uuid,
    Time(TimeKind),
    Array { element: JsonForm, delimiter: u8 },
    Other,
}

impl Source {
    fn of(base_type: Oid, element: Option<Oid>) -> Source {
        let known = Type::from_oid(base_type.0);
        let element = match &known {
            // Both look like arrays in the catalog but are written as numbers between spaces.
            Some(known) if matches!(*known, Type::INT2_VECTOR | Type::OID_VECTOR) => None,
            // Some scalars (name, point) have an element type in the catalog too.
            Some(known) => match known.kind() {
                Kind::Array(element) => Some(Oid(element.oid())),
                _ => None,
            },
            None => element,
        };
        if let Some(element) = element {
            let delimiter = if element.0 == Type::BOX.oid() { b';' } else { b',' };
            return Source::Array { element: Source::of(element, None).json_form(), delimiter };
        }
        match known {
            Some(Type::BOOL) => Source::Boolean,
            Some(Type::INT2 | Type::INT4 | Type::OID) => Source::SmallInteger,
            Some(Type::INT8) => Source::BigInteger,
            Some(Type::NUMERIC) => Source::Numeric,
            Some(Type::FLOAT4) => Source::Float4,
            Some(Type::FLOAT8) => Source::Float8,
            Some(
                Type::TEXT
                | Type::VARCHAR
                | Type::BPCHAR
                | Type::NAME
                | Type::CHAR
                | Type::XML
                | Type::UNKNOWN,
            ) => Source::Text,
            Some(Type::JSON | Type::JSONB) => Source::Json,
            Some(Type::BYTEA) => Source::Bytea,
            Some(Type::UUID) => Source::Uuid,
            Some(Type::DATE) => Source::Time(TimeKind::Date),
            Some(Type::TIMESTAMP) => Source::Time(TimeKind::Timestamp),
            Some(Type::TIMESTAMPTZ) => Source::Time(TimeKind::Timestamptz),
            _ => Source::Other,
        }
    }

    fn json_form(self) -> JsonForm {
        match self {
            Source::Boolean => JsonForm::Boolean,
            Source::SmallInteger | Source::BigInteger | Source::Numeric | Source::Float4 | Source::Float8 => {
                JsonForm::Number
            }
            Source::Json => JsonForm::Raw,
            Source::Time(kind) => JsonForm::Time(kind),
            Source::Text | Source::Bytea | Source::Uuid | Source::Array { .. } | Source::Other => {
                JsonForm::String
            }
        }
    }

    fn conversion(self, target: ColumnType) -> Option<(Conversion, Fidelity)> {
        use Fidelity::{Exact, Lossy};
        Some(match (target, self) {
            (ColumnType::Integer, Source::SmallInteger | Source::BigInteger) => (Conversion::Integer, Exact),
            (ColumnType::Integer, Source::Boolean) => (Conversion::Boolean, Exact),
            (ColumnType::Integer, Source::Numeric) => (
                Conversion::IntegralNumeric,
                Lossy("a numeric with a fraction, beyond 64 bits, NaN or infinite is rejected"),
            ),
            (ColumnType::Integer, Source::Float4 | Source::Float8) => (
                Conversion::IntegralFloat,
                Lossy("a float with a fraction, beyond 64 bits, NaN or infinite is rejected"),
            ),
            (ColumnType::Integer, Source::Time(TimeKind::Date)) => {
                (Conversion::UnixSeconds(TimeKind::Date), Exact)
            }
            (ColumnType::Integer, Source::Time(kind)) => {
                (Conversion::UnixSeconds(kind), Lossy("fractions of a second are dropped"))
            }
            (ColumnType::Integer, Source::Text) => {
                (Conversion::SpeltInteger, Lossy("text that is not an integer is rejected"))
            }
            (ColumnType::Real, Source::Float8) => (Conversion::Real, Exact),
            (ColumnType::Real, Source::Float4) => (Conversion::WidenedReal, Exact),
            (ColumnType::Real, Source::SmallInteger) => (Conversion::NearestReal, Exact),
            (ColumnType::Real, Source::BigInteger) => {
                (Conversion::NearestReal, Lossy("an integer beyond 2^53 is rounded"))
            }
            (ColumnType::Real, Source::Numeric) => {
                (Conversion::NearestReal, Lossy("a numeric of more than 15 digits is rounded"))
            }
            (ColumnType::Real, Source::Text) => {
                (Conversion::SpeltReal, Lossy("text that is not a decimal number is rejected"))
            }
            (ColumnType::Text, Source::Boolean) => (Conversion::BooleanText, Exact),
            (ColumnType::Text, Source::Time(kind)) => (Conversion::TimeText(kind), Exact),
            (ColumnType::Text, _) => (Conversion::Verbatim, Exact),
            (ColumnType::Boolean, Source::Boolean) => (Conversion::Boolean, Exact),
            (ColumnType::Boolean, Source::SmallInteger | Source::BigInteger) => {
                (Conversion::NotZero, Lossy("every number but 0 becomes 1"))
            }
            (ColumnType::Boolean, Source::Text) => {
                (Conversion::SpeltBoolean, Lossy("text other than t, f, true and false is rejected"))
            }
            (ColumnType::Json, Source::Json) => (Conversion::Verbatim, Exact),
            (ColumnType::Json, Source::Array { element, delimiter }) => {
                (Conversion::JsonArray { element, delimiter }, Exact)
            }
            (ColumnType::Json, scalar) => (Conversion::Json(scalar.json_form()), Exact),
            (ColumnType::Blob, Source::Bytea) => (Conversion::Bytes, Exact),
            (ColumnType::Blob, Source::Uuid) => (Conversion::UuidBytes, Exact),
            (ColumnType::Blob, Source::Text | Source::Json) => (Conversion::TextBytes, Exact),
            (ColumnType::Integer | ColumnType::Real | ColumnType::Boolean | ColumnType::Blob, _) => {
                return None;
            }
        })
    }
}

/// The target type that keeps most of a source type: exact where one is, and TEXT where only the digits or the
/// spelling are. `base_type` and `element` as in [`Conversion::choose`].
pub fn natural_type(base_type: Oid, element: Option<Oid>) -> ColumnType {
    match Source::of(base_type, element) {
        Source::SmallInteger | Source::BigInteger => ColumnType::Integer,
        Source::Boolean => ColumnType::Boolean,
        Source::Float4 | Source::Float8 => ColumnType::Real,
        Source::Json | Source::Array { .. } => ColumnType::Json,
        Source::Bytea => ColumnType::Blob,
        Source::Numeric | Source::Text | Source::Uuid | Source::Time(_) | Source::Other => ColumnType::Text,
    }
}

impl Conversion {
    /// The conversion from a type to a target type, and what it does to the values. `base_type` is the type below
    /// all domains, `element` the element type below all domains if it is an array.
    ///
    /// # Errors
    ///
    /// The pair has no defined result.
    pub fn choose(
        base_type: Oid,
        element: Option<Oid>,
        target: ColumnType,
    ) -> Result<(Conversion, Fidelity), Unsupported> {
        let source = Source::of(base_type, element);
        source.conversion(target).ok_or_else(|| Unsupported {
            source: Type::from_oid(base_type.0).map(|known| known.name().to_owned()),
            target,
            possible: [
                ColumnType::Integer,
                ColumnType::Real,
                ColumnType::Text,
                ColumnType::Boolean,
                ColumnType::Json,
                ColumnType::Blob,
            ]
            .into_iter()
            .filter(|&possible| source.conversion(possible).is_some())
            .collect(),
        })
    }

    /// Whether values that the source tells apart may become the same one: no key may.
    pub fn makes_alike(self) -> bool {
        match self {
            // Within a second.
            Conversion::UnixSeconds(kind) => kind != TimeKind::Date,
            // `7` and `007`, `t` and `yes`, 1 and 2.
            Conversion::SpeltInteger
            | Conversion::SpeltReal
            | Conversion::SpeltBoolean
            | Conversion::NearestReal
            | Conversion::NotZero => true,
            Conversion::Integer
            | Conversion::Boolean
            | Conversion::IntegralNumeric
            | Conversion::IntegralFloat
            | Conversion::Real
            | Conversion::WidenedReal
            | Conversion::Verbatim
            | Conversion::BooleanText
            | Conversion::TimeText(_)
            | Conversion::Json(_)
            | Conversion::JsonArray { .. }
            | Conversion::Bytes
            | Conversion::UuidBytes
            | Conversion::TextBytes => false,
        }
    }

    /// Converts a value's text; what the cell refers to is appended to the arena.
    ///
    /// # Errors
    ///
    /// The target cannot hold the value. The arena is then as it was.
    pub fn text(self, value: &[u8], arena: &mut Vec<u8>) -> Result<Cell, Rejection> {
        let start = arena.len();
        let cell = self.convert(value, arena);
        if cell.is_err() {
            arena.truncate(start);
        }
        cell
    }

    fn convert(self, value: &[u8], arena: &mut Vec<u8>) -> Result<Cell, Rejection> {
        let start = arena.len();
        match self {
            Conversion::Integer => match integer(value) {
                Some(integer) => Ok(Cell::Integer(integer)),
                None => Err(not("an integer")),
            },
            Conversion::Boolean => Ok(Cell::Integer(i64::from(boolean(value)?))),
            Conversion::IntegralNumeric => integral_numeric(value).map(Cell::Integer),
            Conversion::IntegralFloat => integral_float(value).map(Cell::Integer),
            Conversion::SpeltInteger => match integer(without_padding(value)) {
                Some(integer) => Ok(Cell::Integer(integer)),
                None => Err(Rejection::new("text is not an integer of 64 bits")),
            },
            Conversion::UnixSeconds(kind) => kind.unix_seconds(value).map(Cell::Integer),
            Conversion::Real => float(value).map(real),
            Conversion::WidenedReal => float4(value).map(|float| real(f64::from(float))),
            Conversion::NearestReal => nearest_real(value).map(real),
            Conversion::SpeltReal => spelt_real(value).map(real),
            Conversion::Verbatim => {
                utf8(value)?;
                Ok(Cell::Text(push(arena, value)))
            }
            Conversion::BooleanText => {
                let text: &[u8] = if boolean(value)? { b"true" } else { b"false" };
                Ok(Cell::Text(push(arena, text)))
            }
            Conversion::TimeText(kind) => {
                kind.push_rfc3339(value, arena)?;
                Ok(Cell::Text(pushed_since(start, arena)))
            }
            Conversion::NotZero => match integer(value) {
                Some(integer) => Ok(Cell::Integer(i64::from(integer != 0))),
                None => Err(not("an integer")),
            },
            Conversion::SpeltBoolean => match without_padding(value) {
                b"t" | b"true" => Ok(Cell::Integer(1)),
                b"f" | b"false" => Ok(Cell::Integer(0)),
                _ => Err(Rejection::new("text is neither t, true, f nor false")),
            },
            Conversion::Json(form) => {
                utf8(value)?;
                form.push(value, arena)?;
                Ok(Cell::Text(pushed_since(start, arena)))
            }
            Conversion::JsonArray { element, delimiter } => {
                utf8(value)?;
                push_json_array(value, element, delimiter, arena)?;
                Ok(Cell::Text(pushed_since(start, arena)))
            }
            Conversion::Bytes => {
                push_bytea(value, arena)?;
                Ok(Cell::Blob(pushed_since(start, arena)))
            }
            Conversion::UuidBytes => Ok(Cell::Blob(push(arena, &uuid(value)?))),
            Conversion::TextBytes => Ok(Cell::Blob(push(arena, value))),
        }
    }
}

/// What the arena has gained since it was `start` long.
pub(super) fn pushed_since(start: usize, arena: &[u8]) -> Slice {
    Slice { start: start as u32, len: (arena.len() - start) as u32 }
}

/// A float as a cell: SQLite stores NaN as NULL whatever it is told, so it becomes NULL here already.
pub(super) fn real(float: f64) -> Cell {
    if float.is_nan() { Cell::Null } else { Cell::Real(float) }
}
