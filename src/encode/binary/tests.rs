//! Values in binary become the cells that their texts become; bytes that are no value are rejected.

use super::*;
use crate::encode::column_type::ColumnType;
use crate::encode::column_type::ColumnType::{Blob, Boolean, Integer, Json, Real, Text};
use proptest::prelude::*;

/// The cell of a binary value, and the cell of the text that the server has for it, each with its arena.
fn both(
    source: &Type,
    target: ColumnType,
    binary: &[u8],
    text: &[u8],
) -> [(Result<Cell, Rejection>, Vec<u8>); 2] {
    let (conversion, _) = Conversion::choose(Oid(source.oid()), None, target).unwrap();
    let (mut of_binary, mut of_text) = (b"before".to_vec(), b"before".to_vec());
    let binary = conversion.binary(Oid(source.oid()), binary, &mut of_binary);
    let text = conversion.text(text, &mut of_text);
    [(binary, of_binary), (text, of_text)]
}

/// Asserts that in every target type a binary value becomes what its text becomes.
#[track_caller]
fn assert_alike(source: &Type, binary: &[u8], text: &str) {
    let mut checked = 0;
    for target in [Integer, Real, Text, Boolean, Json, Blob] {
        if Conversion::choose(Oid(source.oid()), None, target).is_ok() {
            let [of_binary, of_text] = both(source, target, binary, text.as_bytes());
            assert_eq!(of_binary.0.is_ok(), of_text.0.is_ok(), "{source} {text} as {target:?}");
            if of_text.0.is_ok() {
                assert_eq!(of_binary, of_text, "{source} {text} as {target:?}");
            }
            checked += 1;
        }
    }
    assert!(checked > 1);
}

#[test]
fn a_binary_value_becomes_what_its_text_becomes() {
    assert_alike(&Type::BOOL, &[1], "t");
    assert_alike(&Type::BOOL, &[0], "f");
    assert_alike(&Type::INT2, &i16::MIN.to_be_bytes(), "-32768");
    assert_alike(&Type::INT4, &i32::MAX.to_be_bytes(), "2147483647");
    assert_alike(&Type::INT8, &i64::MIN.to_be_bytes(), "-9223372036854775808");
    assert_alike(&Type::INT8, &0i64.to_be_bytes(), "0");
    assert_alike(&Type::OID, &u32::MAX.to_be_bytes(), "4294967295");
    assert_alike(&Type::TEXT, "a\"ü".as_bytes(), "a\"ü");
    assert_alike(&Type::BPCHAR, b"42  ", "42  ");
    assert_alike(&Type::JSON, b"{\"a\" : 1}", "{\"a\" : 1}");
    assert_alike(&Type::JSONB, b"\x01{\"a\": 1}", "{\"a\": 1}");
    assert_alike(&Type::BYTEA, &[0, 255, 16], "\\x00ff10");
    assert_alike(&Type::BYTEA, &[], "\\x");
    let uuid = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes();
    assert_alike(&Type::UUID, &uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
}

#[test]
fn times_become_what_their_text_becomes() {
    // The binary forms are what Postgres 15's send functions return for these texts.
    let timestamps = [
        (-211_810_204_800_000_000, "4713-01-01 00:00:00 BC"),
        (9_223_371_331_199_999_999, "294276-12-31 23:59:59.999999"),
        (-946_684_800_999_999, "1969-12-31 23:59:59.000001"),
        (-946_684_800_000_000, "1970-01-01 00:00:00"),
        (762_525_296_789_000, "2024-02-29 12:34:56.789"),
        (252_455_616_000_000_000, "10000-01-01 00:00:00"),
        (i64::MAX, "infinity"),
        (i64::MIN, "-infinity"),
    ];
    for (micros, text) in timestamps {
        let micros: i64 = micros;
        assert_alike(&Type::TIMESTAMP, &micros.to_be_bytes(), text);
        let zoned = match text.strip_suffix(" BC") {
            Some(text) => format!("{text}+00 BC"),
            None if text.ends_with('y') => text.to_owned(),
            None => format!("{text}+00"),
        };
        assert_alike(&Type::TIMESTAMPTZ, &micros.to_be_bytes(), &zoned);
    }
    let dates = [
        (-2_451_507, "4713-01-01 BC"),
        (2_145_031_948, "5874897-12-31"),
        (0, "2000-01-01"),
        (8_825, "2024-02-29"),
        (i32::MAX, "infinity"),
        (i32::MIN, "-infinity"),
    ];
    for (days, text) in dates {
        let days: i32 = days;
        assert_alike(&Type::DATE, &days.to_be_bytes(), text);
    }
}

#[test]
fn floats_are_written_as_the_server_writes_them() {
    let doubles = [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "Infinity"),
        (f64::NEG_INFINITY, "-Infinity"),
        (f64::MAX, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (0.1, "0.1"),
        (0.0, "0"),
        (-0.0, "-0"),
        (1e14, "100000000000000"),
        (1e15, "1e+15"),
        (-1e22, "-1e+22"),
        (9_007_199_254_740_992.0, "9.007199254740992e+15"),
        (123_456.75, "123456.75"),
        (0.0001, "0.0001"),
        (0.00012345, "0.00012345"),
        (0.00001, "1e-05"),
    ];
    for (value, text) in doubles {
        assert_alike(&Type::FLOAT8, &value.to_be_bytes(), text);
    }
    let floats = [
        (f32::NAN, "NaN"),
        (f32::NEG_INFINITY, "-Infinity"),
        (f32::MAX, "3.4028235e+38"),
        (f32::from_bits(1), "1e-45"),
        (0.1, "0.1"),
        (1e6, "1e+06"),
        (16_777_216.0, "1.6777216e+07"),
        (99_999.0, "99999"),
    ];
    for (value, text) in floats {
        assert_alike(&Type::FLOAT4, &value.to_be_bytes(), text);
    }
}

#[test]
fn a_type_that_is_not_read_in_binary_is_rejected() {
    for source in [Type::NUMERIC, Type::INTERVAL, Type::INT4_ARRAY, Type::INET] {
        let [(binary, arena), _] = both(&source, Text, &[0; 8], b"");
        assert!(binary.is_err(), "{source}");
        assert_eq!(arena, b"before");
    }
    let [(jsonb, _), _] = both(&Type::JSONB, Json, b"\x02{}", b"");
    assert!(jsonb.is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(value in prop::collection::vec(any::<u8>(), 0..20)) {
        let sources = [
            Type::BOOL, Type::INT2, Type::INT4, Type::INT8, Type::OID, Type::FLOAT4, Type::FLOAT8, Type::BYTEA,
            Type::TEXT, Type::UUID, Type::JSONB, Type::DATE, Type::TIMESTAMP, Type::TIMESTAMPTZ, Type::NUMERIC,
        ];
        // A plan never pairs a conversion with another source type, but that must not panic either.
        for source in &sources {
            for target in [Integer, Real, Text, Boolean, Json, Blob] {
                let Ok((conversion, _)) = Conversion::choose(Oid(source.oid()), None, target) else { continue };
                for sent in &sources {
                    let mut arena = b"before".to_vec();
                    if conversion.binary(Oid(sent.oid()), &value, &mut arena).is_err() {
                        prop_assert_eq!(&arena, b"before");
                    }
                }
            }
        }
    }
}
