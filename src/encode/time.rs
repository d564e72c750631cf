//! Dates and timestamps: Postgres' ISO text (`datestyle = ISO`) enters; unix seconds or RFC 3339 text leaves.
//!
//! Postgres writes `2024-02-29 12:34:56.789+00`, years with four to seven digits, `BC` at the end, offsets down to
//! the second, and `infinity`. RFC 3339 knows only the years 0000 to 9999, so other years follow ISO 8601's expanded
//! form: a sign and at least four digits, counted astronomically (1 BC is `0000`, 4713 BC is `-4712`).
//!
//! Nothing here reads a clock or a time zone, and nothing panics, whatever the bytes are.

use super::rejection::Rejection;

#[cfg(test)]
mod tests;

const SECONDS_PER_DAY: i64 = 86_400;
/// 2000-01-01, where Postgres starts to count, in days since 1970-01-01.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Which of the three types on the calendar a text is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeKind {
    /// `date`: a day.
    Date,
    /// `timestamp`: a day and a time of day in no particular zone; counted as if it were UTC.
    Timestamp,
    /// `timestamptz`: an instant; its text carries an offset from UTC.
    Timestamptz,
}

impl TimeKind {
    /// The unix seconds of a Postgres text, rounded down. `infinity` is `i64::MAX` and `-infinity` is `i64::MIN`, as
    /// Postgres itself stores them.
    ///
    /// # Errors
    ///
    /// The text is not of this kind in ISO style.
    pub fn unix_seconds(self, text: &[u8]) -> Result<i64, Rejection> {
        match self.read(text) {
            // A fraction always counts upwards from its whole second, so dropping it rounds down before 1970 too.
            Some(fields) => Ok(fields.unix_seconds()),
            None if text == b"infinity" => Ok(i64::MAX),
            None if text == b"-infinity" => Ok(i64::MIN),
            None => Err(self.malformed()),
        }
    }

    /// Appends a Postgres text as RFC 3339: a `timestamptz` in UTC with `Z`, a `timestamp` without an offset, a
    /// `date` as the day alone. The digits of a fraction stay as they are; the infinities stay as Postgres
    /// spells them.
    ///
    /// # Errors
    ///
    /// The text is not of this kind in ISO style; nothing has been appended then.
    pub fn push_rfc3339(self, text: &[u8], arena: &mut Vec<u8>) -> Result<(), Rejection> {
        let Some(fields) = self.read(text) else {
            if text == b"infinity" || text == b"-infinity" {
                arena.extend_from_slice(text);
                return Ok(());
            }
            return Err(self.malformed());
        };
        if fields.is_plain {
            // `YYYY-MM-DD` and the clock are spelt alike on both sides: only what lies between and behind differs.
            arena.extend_from_slice(&text[..10]);
            if self != TimeKind::Date {
                arena.push(b'T');
                arena.extend_from_slice(&text[11..19]);
            }
        } else if self == TimeKind::Date {
            push_date(arena, fields.year, fields.month, fields.day);
        } else {
            push_date_time(arena, fields.unix_seconds());
        }
        // An offset is whole seconds, so moving to UTC leaves the fraction alone.
        arena.extend_from_slice(fields.fraction);
        if self == TimeKind::Timestamptz {
            arena.push(b'Z');
        }
        Ok(())
    }

    fn malformed(self) -> Rejection {
        Rejection::new(match self {
            TimeKind::Date => "not a date in ISO style",
            TimeKind::Timestamp => "not a timestamp in ISO style",
            TimeKind::Timestamptz => "not a timestamp with an offset in ISO style",
        })
    }

    /// The fields of a finite text, or `None` where the text is anything else.
    fn read(self, text: &[u8]) -> Option<Fields<'_>> {
        // Four digits are by far the most common year.
        let year_len = if text.get(4) == Some(&b'-') { 4 } else { text.iter().position(|&b| b == b'-')? };
        if !(4..=7).contains(&year_len) {
            return None;
        }
        let written_year = number(&text[..year_len])? as i32;
        let (&[b'-', m1, m0, b'-', d1, d0], mut rest) = text[year_len..].split_first_chunk()? else {
            return None;
        };
        let (month, day) = (two_digits(m1, m0)?, two_digits(d1, d0)?);

        let (mut second_of_day, mut fraction, mut offset) = (0, &text[..0], 0);
        if self != TimeKind::Date {
            let (&[b' ', h1, h0, b':', m1, m0, b':', s1, s0], tail) = rest.split_first_chunk()? else {
                return None;
            };
            let (hour, minute, second) = (two_digits(h1, h0)?, two_digits(m1, m0)?, two_digits(s1, s0)?);
            if hour > 23 || minute > 59 || second > 59 {
                return None;
            }
            second_of_day = i64::from(hour * 3600 + minute * 60 + second);
            (fraction, rest) = split_fraction(tail)?;
        }
        if self == TimeKind::Timestamptz {
            (offset, rest) = split_offset(rest)?;
        }
        let year = match rest {
            b"" => written_year,
            // There is no year 0 in Postgres: 1 BC is followed by 1 AD.
            b" BC" => 1 - written_year,
            _ => return None,
        };
        if written_year == 0 || !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day)
        {
            return None;
        }
        let is_plain = year_len == 4 && offset == 0 && rest.is_empty();
        Some(Fields { year, month, day, second_of_day, fraction, offset, is_plain })
    }
}

/// What a finite text says.
struct Fields<'a> {
    /// Astronomical: 1 BC is 0.
    year: i32,
    month: u32,
    day: u32,
    second_of_day: i64,
    /// The point and its digits, or nothing.
    fraction: &'a [u8],
    /// Seconds east of UTC.
    offset: i64,
    /// A year of four digits AD at offset zero: the text needs no arithmetic to become RFC 3339.
    is_plain: bool,
}

impl Fields<'_> {
    fn unix_seconds(&self) -> i64 {
        days_from_civil(self.year, self.month, self.day) * SECONDS_PER_DAY + self.second_of_day - self.offset
    }
}

/// Splits off `.` and one to six digits, where they are.
fn split_fraction(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.first() != Some(&b'.') {
        return Some((&[], text));
    }
    let digits = text[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    (1..=6).contains(&digits).then(|| text.split_at(1 + digits))
}

/// Splits off `±HH[:MM[:SS]]` and returns it in seconds east of UTC.
fn split_offset(text: &[u8]) -> Option<(i64, &[u8])> {
    let (&[sign, h1, h0], mut rest) = text.split_first_chunk()?;
    let mut seconds = i64::from(two_digits(h1, h0)?) * 3600;
    for unit in [60, 1] {
        let Some((&[b':', t1, t0], tail)) = rest.split_first_chunk() else { break };
        seconds += i64::from(two_digits(t1, t0)?) * unit;
        rest = tail;
    }
    match sign {
        b'+' => Some((seconds, rest)),
        b'-' => Some((-seconds, rest)),
        _ => None,
    }
}

/// The number that up to nine ASCII digits spell.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &b| b.is_ascii_digit().then(|| value * 10 + u32::from(b - b'0')))
}

#[inline]
fn two_digits(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// The last day of a month, 1 to 12, of an astronomical year.
fn days_in_month(year: i32, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. The year is taken to begin in March, so that the leap
/// day is its last one and the days before a month follow one line, `(153·m + 2) / 5`; 400 such years are one era of
/// 146,097 days. See Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The year, month and day of a count of days since 1970-01-01: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i32, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year as i32, month as u32, day as u32)
}

/// A day as Postgres sends it in binary, as days since 1970-01-01; `None` for the infinities.
pub fn unix_days(postgres_days: i32) -> Option<i64> {
    (postgres_days != i32::MAX && postgres_days != i32::MIN)
        .then(|| i64::from(postgres_days) + POSTGRES_EPOCH_DAYS)
}

/// A timestamp as Postgres sends it in binary, as unix seconds rounded down and the micros above them; `None` for
/// the infinities.
pub fn unix_parts(postgres_micros: i64) -> Option<(i64, u32)> {
    (postgres_micros != i64::MAX && postgres_micros != i64::MIN).then(|| {
        let seconds = postgres_micros.div_euclid(MICROS_PER_SECOND) + POSTGRES_EPOCH_DAYS * SECONDS_PER_DAY;
        (seconds, postgres_micros.rem_euclid(MICROS_PER_SECOND) as u32)
    })
}

/// Appends a day, counted from 1970-01-01, as `YYYY-MM-DD`.
pub fn push_unix_days(arena: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    push_date(arena, year, month, day);
}

/// Appends unix seconds and micros as RFC 3339 without an offset; the fraction has no trailing zeros.
pub fn push_unix_parts(arena: &mut Vec<u8>, seconds: i64, micros: u32) {
    push_date_time(arena, seconds);
    if micros > 0 {
        arena.push(b'.');
        push_padded(arena, micros, 6);
        while arena.last() == Some(&b'0') {
            arena.pop();
        }
    }
}

/// Appends an instant, in micros since 1970, as RFC 3339 in UTC (`2024-02-29T12:34:56.789Z`).
pub fn push_rfc3339_micros(arena: &mut Vec<u8>, unix_micros: i64) {
    let micros = unix_micros.rem_euclid(MICROS_PER_SECOND) as u32;
    push_unix_parts(arena, unix_micros.div_euclid(MICROS_PER_SECOND), micros);
    arena.push(b'Z');
}

fn push_date_time(arena: &mut Vec<u8>, unix_seconds: i64) {
    push_unix_days(arena, unix_seconds.div_euclid(SECONDS_PER_DAY));
    let second_of_day = unix_seconds.rem_euclid(SECONDS_PER_DAY) as u32;
    for (mark, unit) in
        [(b'T', second_of_day / 3600), (b':', second_of_day / 60 % 60), (b':', second_of_day % 60)]
    {
        arena.push(mark);
        push_padded(arena, unit, 2);
    }
}

fn push_date(arena: &mut Vec<u8>, year: i32, month: u32, day: u32) {
    match year {
        ..0 => arena.push(b'-'),
        0..=9999 => {}
        10_000.. => arena.push(b'+'),
    }
    push_padded(arena, year.unsigned_abs(), 4);
    arena.push(b'-');
    push_padded(arena, month, 2);
    arena.push(b'-');
    push_padded(arena, day, 2);
}

/// Appends a number with leading zeros up to a width.
fn push_padded(arena: &mut Vec<u8>, value: u32, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    arena.resize(arena.len() + width.saturating_sub(digits.len()), b'0');
    arena.extend_from_slice(digits);
}
