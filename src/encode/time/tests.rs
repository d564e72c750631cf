//! Dates and times at their limits, in every form of the source and of the target.

use super::*;
use TimeKind::{Date, Timestamp, Timestamptz};
use proptest::prelude::*;

fn rfc3339(kind: TimeKind, text: &str) -> Option<String> {
    let mut arena = Vec::new();
    kind.push_rfc3339(text.as_bytes(), &mut arena).ok()?;
    Some(String::from_utf8(arena).unwrap())
}

#[test]
fn the_texts_of_the_server_have_these_results() {
    // Each first column was printed by Postgres 15 with the pinned settings or, where an offset other than +00
    // stands, with Asia/Kolkata and America/New_York; each second one by `floor(extract(epoch from …))`.
    let table = [
        (Timestamp, "4713-01-01 00:00:00 BC", -210_863_520_000, "-4712-01-01T00:00:00"),
        (Timestamp, "4713-11-24 00:00:00 BC", -210_835_180_800, "-4712-11-24T00:00:00"),
        (Timestamp, "294276-12-31 23:59:59.999999", 9_224_318_015_999, "+294276-12-31T23:59:59.999999"),
        (Timestamp, "0001-12-31 23:59:59.5 BC", -62_135_596_801, "0000-12-31T23:59:59.5"),
        (Timestamp, "0001-01-01 00:00:00", -62_135_596_800, "0001-01-01T00:00:00"),
        (Timestamp, "9999-12-31 23:59:59.999999", 253_402_300_799, "9999-12-31T23:59:59.999999"),
        (Timestamp, "10000-01-01 00:00:00", 253_402_300_800, "+10000-01-01T00:00:00"),
        (Timestamp, "infinity", i64::MAX, "infinity"),
        (Timestamp, "-infinity", i64::MIN, "-infinity"),
        (Timestamp, "1969-12-31 23:59:59.000001", -1, "1969-12-31T23:59:59.000001"),
        (Timestamp, "1970-01-01 00:00:00", 0, "1970-01-01T00:00:00"),
        (Timestamp, "2000-02-29 12:34:56.7", 951_827_696, "2000-02-29T12:34:56.7"),
        (Timestamptz, "4713-01-01 00:00:00+00 BC", -210_863_520_000, "-4712-01-01T00:00:00Z"),
        (Timestamptz, "294276-12-31 23:59:59.999999+00", 9_224_318_015_999, "+294276-12-31T23:59:59.999999Z"),
        (Timestamptz, "0044-03-15 12:00:00+00 BC", -63_517_780_800, "-0043-03-15T12:00:00Z"),
        (Timestamptz, "infinity", i64::MAX, "infinity"),
        (Timestamptz, "2024-02-29 12:34:56.789+00", 1_709_210_096, "2024-02-29T12:34:56.789Z"),
        (Timestamptz, "2024-02-29 18:04:56.789+05:30", 1_709_210_096, "2024-02-29T12:34:56.789Z"),
        (Timestamptz, "0044-03-15 17:53:28+05:53:28 BC", -63_517_780_800, "-0043-03-15T12:00:00Z"),
        (Timestamptz, "1800-01-01 05:53:28+05:53:28", -5_364_662_400, "1800-01-01T00:00:00Z"),
        (Timestamptz, "2024-02-29 07:34:56.789-05", 1_709_210_096, "2024-02-29T12:34:56.789Z"),
        (Timestamptz, "1799-12-31 19:03:58-04:56:02", -5_364_662_400, "1800-01-01T00:00:00Z"),
        (Timestamptz, "294276-12-31 18:59:59.999999-05", 9_224_318_015_999, "+294276-12-31T23:59:59.999999Z"),
        (Date, "4713-01-01 BC", -210_863_520_000, "-4712-01-01"),
        (Date, "5874897-12-31", 185_331_706_992_000, "+5874897-12-31"),
        (Date, "infinity", i64::MAX, "infinity"),
        (Date, "-infinity", i64::MIN, "-infinity"),
        (Date, "0001-01-01 BC", -62_167_219_200, "0000-01-01"),
        (Date, "10000-01-01", 253_402_300_800, "+10000-01-01"),
        (Date, "2024-02-29", 1_709_164_800, "2024-02-29"),
    ];
    for (kind, text, seconds, expected) in table {
        assert_eq!(kind.unix_seconds(text.as_bytes()), Ok(seconds), "{text}");
        assert_eq!(rfc3339(kind, text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn an_offset_may_move_the_day_the_year_and_the_era() {
    let table = [
        ("2024-03-01 00:30:00+01", "2024-02-29T23:30:00Z"),
        ("2023-12-31 23:59:59.5-00:00:01", "2024-01-01T00:00:00.5Z"),
        ("0001-01-01 00:00:00+01", "0000-12-31T23:00:00Z"),
        ("0001-12-31 23:00:00-02 BC", "0001-01-01T01:00:00Z"),
        ("9999-12-31 23:00:00-02", "+10000-01-01T01:00:00Z"),
        ("10000-01-01 01:00:00+02", "9999-12-31T23:00:00Z"),
    ];
    for (text, expected) in table {
        assert_eq!(rfc3339(Timestamptz, text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn any_other_text_is_rejected_without_a_trace_in_the_arena() {
    let table = [
        (Timestamp, "2024-02-29 12:34:56+00"),
        (Timestamp, "2024-02-29T12:34:56"),
        (Timestamp, "2024-02-29 12:34"),
        (Timestamp, "2024-02-29 24:00:00"),
        (Timestamp, "2024-02-29 12:60:00"),
        (Timestamp, "2024-02-29 12:34:60"),
        (Timestamp, "2024-02-29 12:34:56."),
        (Timestamp, "2024-02-29 12:34:56.1234567"),
        (Timestamp, "2023-02-29 12:34:56"),
        (Timestamp, "29/02/2024 12:34:56"),
        (Timestamp, "Infinity"),
        (Timestamptz, "2024-02-29 12:34:56"),
        (Timestamptz, "2024-02-29 12:34:56 UTC"),
        (Timestamptz, "2024-02-29 12:34:56+0"),
        (Timestamptz, "2024-02-29 12:34:56+00:"),
        (Timestamptz, "2024-02-29 12:34:56+00 AD"),
        (Date, "2024-02-29 12:34:56"),
        (Date, "0000-01-01"),
        (Date, "2024-13-01"),
        (Date, "2024-00-01"),
        (Date, "2024-04-31"),
        (Date, "2024-4-3"),
        (Date, "24-04-03"),
        (Date, "12345678-01-01"),
        (Date, "-4712-01-01"),
        (Date, ""),
    ];
    for (kind, text) in table {
        let mut arena = b"before".to_vec();
        assert!(kind.unix_seconds(text.as_bytes()).is_err(), "{text}");
        assert!(kind.push_rfc3339(text.as_bytes(), &mut arena).is_err(), "{text}");
        assert_eq!(arena, b"before");
    }
}

#[test]
fn commit_times_are_written_in_utc_without_trailing_zeros() {
    let table = [
        (0, "1970-01-01T00:00:00Z"),
        (1_709_210_096_789_000, "2024-02-29T12:34:56.789Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
        (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
    ];
    for (micros, expected) in table {
        let mut arena = Vec::new();
        push_rfc3339_micros(&mut arena, micros);
        assert_eq!(String::from_utf8(arena).unwrap(), expected);
    }
}

/// The Julian day of a date, as Postgres itself computes it (`date2j` in src/backend/utils/adt/datetime.c): another
/// formula than the one under test.
fn julian_day(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year + 4800, month + 1) } else { (year + 4799, month + 13) };
    let century = year / 100;
    year * 365 - 32167 + year / 4 - century + century / 4 + 7834 * month / 256 + day
}

/// Writes an astronomical date and a time of day as Postgres does.
fn postgres_text(year: i32, month: u32, day: u32, clock: &str) -> String {
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{year:04}-{month:02}-{day:02}{clock}{era}")
}

prop_compose! {
    fn any_day()(year in prop_oneof![-4712..=5_874_897i32, 1..=9999, 1900..2100], month in 1..=12u32)
        (day in 1..=days_in_month(year, month), year in Just(year), month in Just(month)) -> (i32, u32, u32) {
        (year, month, day)
    }
}

proptest! {
    #[test]
    fn every_day_has_the_number_that_postgres_gives_it((year, month, day) in any_day()) {
        let days = julian_day(year.into(), month.into(), day.into()) - 2_440_588;
        let text = postgres_text(year, month, day, "");
        prop_assert_eq!(Date.unix_seconds(text.as_bytes()), Ok(days * 86_400));
        prop_assert_eq!(civil_from_days(days), (year, month, day));
    }

    #[test]
    fn every_instant_within_its_reach_is_read_and_written_as_by_jiff(
        micros in -377_705_023_201_000_000..=253_402_207_200_999_999i64,
    ) {
        let instant = jiff::Timestamp::from_microsecond(micros).unwrap();
        let civil = jiff::tz::Offset::UTC.to_datetime(instant);
        let clock = civil.time().to_string();
        let (year, month, day) = (civil.year().into(), civil.month() as u32, civil.day() as u32);
        let text = postgres_text(year, month, day, &format!(" {clock}+00"));
        // Above, the era stands behind the offset, as it does in Postgres.
        prop_assert_eq!(Timestamptz.unix_seconds(text.as_bytes()), Ok(micros.div_euclid(1_000_000)));

        let written = rfc3339(Timestamptz, &text).unwrap();
        let mut arena = Vec::new();
        push_rfc3339_micros(&mut arena, micros);
        prop_assert_eq!(written.as_bytes(), arena);
        if year >= 0 {
            prop_assert_eq!(&written, &instant.to_string());
        }
        let without_offset = rfc3339(Timestamp, &text.replace("+00", ""));
        prop_assert_eq!(written.strip_suffix('Z'), without_offset.as_deref());
    }

    #[test]
    fn an_offset_changes_the_text_but_not_the_instant(
        seconds in -60_000_000_000i64..9_000_000_000_000, offset in -57_599..57_599i64,
    ) {
        let local = seconds + offset;
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let of_day = local.rem_euclid(86_400);
        let clock = |s: i64| format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        let sign = if offset < 0 { '-' } else { '+' };
        let text = postgres_text(year, month, day, &format!(" {}.25{sign}{}", clock(of_day), clock(offset.abs())));
        prop_assert_eq!(Timestamptz.unix_seconds(text.as_bytes()), Ok(seconds));

        let mut expected = Vec::new();
        push_unix_parts(&mut expected, seconds, 250_000);
        expected.push(b'Z');
        prop_assert_eq!(rfc3339(Timestamptz, &text).unwrap().into_bytes(), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(text in "[-+0-9:. BCinfty]{0,36}") {
        for kind in [Date, Timestamp, Timestamptz] {
            let _ = (kind.unix_seconds(text.as_bytes()), rfc3339(kind, &text));
        }
    }
}
