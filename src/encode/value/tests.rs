//! Every source type in every target type, with the values that are easy to get wrong.

use super::*;
use ColumnType::{Blob, Boolean, Integer, Json, Real, Text};
use proptest::prelude::*;
use serde::de::IgnoredAny;

/// What a cell holds, with its own bytes.
#[derive(Debug, Clone, PartialEq)]
enum Held {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    Rejected,
}

fn text(string: impl Into<String>) -> Held {
    Held::Text(string.into())
}

fn held(cell: Result<Cell, Rejection>, arena: &[u8]) -> Held {
    match cell {
        Ok(Cell::Absent) => unreachable!("a value that is there is never absent"),
        Ok(Cell::Null) => Held::Null,
        Ok(Cell::Integer(integer)) => Held::Integer(integer),
        Ok(Cell::Real(float)) => Held::Real(float),
        Ok(Cell::Text(slice)) => text(String::from_utf8(slice.of(arena).to_vec()).unwrap()),
        Ok(Cell::Blob(slice)) => Held::Blob(slice.of(arena).to_vec()),
        Err(_) => Held::Rejected,
    }
}

fn conversion(source: &Type, target: ColumnType) -> Conversion {
    let element = match source.kind() {
        Kind::Array(element) => Some(Oid(element.oid())),
        _ => None,
    };
    Conversion::choose(Oid(source.oid()), element, target).unwrap().0
}

fn convert(source: &Type, target: ColumnType, value: &[u8]) -> Held {
    // The arena holds other values already, and keeps them.
    let mut arena = b"before".to_vec();
    let cell = conversion(source, target).text(value, &mut arena);
    assert!(arena.starts_with(b"before"));
    if cell.is_err() {
        assert_eq!(arena, b"before");
    }
    held(cell, &arena)
}

#[track_caller]
fn check(target: ColumnType, table: &[(Type, &str, Held)]) {
    for (source, value, expected) in table {
        assert_eq!(convert(source, target, value.as_bytes()), *expected, "{source} {value:?}");
    }
}

const SOURCES: [Type; 24] = [
    Type::BOOL,
    Type::INT2,
    Type::INT4,
    Type::INT8,
    Type::OID,
    Type::NUMERIC,
    Type::FLOAT4,
    Type::FLOAT8,
    Type::TEXT,
    Type::BPCHAR,
    Type::JSON,
    Type::JSONB,
    Type::BYTEA,
    Type::UUID,
    Type::DATE,
    Type::TIMESTAMP,
    Type::TIMESTAMPTZ,
    Type::TIME,
    Type::INTERVAL,
    Type::INT4_ARRAY,
    Type::TEXT_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::BOX_ARRAY,
    Type::INET,
];
const TARGETS: [ColumnType; 6] = [Integer, Real, Text, Boolean, Json, Blob];

#[test]
fn integers_are_exact_or_rejected() {
    check(
        Integer,
        &[
            (Type::INT2, "-32768", Held::Integer(-32768)),
            (Type::INT4, "2147483647", Held::Integer(2_147_483_647)),
            (Type::INT8, "-9223372036854775808", Held::Integer(i64::MIN)),
            (Type::INT8, "9223372036854775807", Held::Integer(i64::MAX)),
            (Type::INT8, "9007199254740991", Held::Integer((1 << 53) - 1)),
            (Type::INT8, "9007199254740993", Held::Integer((1 << 53) + 1)),
            (Type::INT8, "9223372036854775808", Held::Rejected),
            (Type::INT8, "", Held::Rejected),
            (Type::INT8, "-", Held::Rejected),
            (Type::INT8, "1x", Held::Rejected),
            (Type::OID, "4294967295", Held::Integer(4_294_967_295)),
            (Type::BOOL, "t", Held::Integer(1)),
            (Type::BOOL, "f", Held::Integer(0)),
            (Type::BOOL, "true", Held::Rejected),
            (Type::NUMERIC, "12.000", Held::Integer(12)),
            (Type::NUMERIC, "0.00", Held::Integer(0)),
            (Type::NUMERIC, "-9223372036854775808.0", Held::Integer(i64::MIN)),
            (Type::NUMERIC, "9223372036854775807", Held::Integer(i64::MAX)),
            (Type::NUMERIC, "9223372036854775808", Held::Rejected),
            (Type::NUMERIC, "12345678901234567890123456789012345678", Held::Rejected),
            (Type::NUMERIC, "-0.5", Held::Rejected),
            (Type::NUMERIC, "1.50", Held::Rejected),
            (Type::NUMERIC, "NaN", Held::Rejected),
            (Type::NUMERIC, "-Infinity", Held::Rejected),
            (Type::FLOAT8, "1e+15", Held::Integer(1_000_000_000_000_000)),
            (Type::FLOAT8, "-9.223372036854775808e+18", Held::Integer(i64::MIN)),
            (Type::FLOAT8, "9.223372036854775808e+18", Held::Rejected),
            (Type::FLOAT8, "-0", Held::Integer(0)),
            (Type::FLOAT4, "1.6777216e+07", Held::Integer(1 << 24)),
            (Type::FLOAT8, "0.1", Held::Rejected),
            (Type::FLOAT8, "NaN", Held::Rejected),
            (Type::FLOAT8, "Infinity", Held::Rejected),
            (Type::TIMESTAMP, "1969-12-31 23:59:59.000001", Held::Integer(-1)),
            (Type::TIMESTAMPTZ, "294276-12-31 23:59:59.999999+00", Held::Integer(9_224_318_015_999)),
            (Type::TIMESTAMPTZ, "infinity", Held::Integer(i64::MAX)),
            (Type::DATE, "-infinity", Held::Integer(i64::MIN)),
            (Type::DATE, "4713-01-01 BC", Held::Integer(-210_863_520_000)),
            (Type::TEXT, "-42", Held::Integer(-42)),
            (Type::BPCHAR, "42   ", Held::Integer(42)),
            (Type::TEXT, "4 2", Held::Rejected),
            (Type::TEXT, " 42", Held::Rejected),
            (Type::TEXT, "42\n", Held::Rejected),
            (Type::TEXT, "+42", Held::Rejected),
            (Type::TEXT, "4.0", Held::Rejected),
            (Type::TEXT, "", Held::Rejected),
        ],
    );
}

#[test]
fn reals_are_the_number_sent_or_the_nearest_one() {
    check(
        Real,
        &[
            (Type::FLOAT8, "0.1", Held::Real(0.1)),
            (Type::FLOAT8, "1.7976931348623157e+308", Held::Real(f64::MAX)),
            (Type::FLOAT8, "5e-324", Held::Real(5e-324)),
            (Type::FLOAT8, "2.2250738585072014e-308", Held::Real(f64::MIN_POSITIVE)),
            (Type::FLOAT8, "9.999999999999999e+22", Held::Real(1e23)),
            (Type::FLOAT8, "NaN", Held::Null),
            (Type::FLOAT8, "Infinity", Held::Real(f64::INFINITY)),
            (Type::FLOAT8, "-Infinity", Held::Real(f64::NEG_INFINITY)),
            (Type::FLOAT4, "0.1", Held::Real(0.1f32.into())),
            (Type::FLOAT4, "3.4028235e+38", Held::Real(f32::MAX.into())),
            (Type::FLOAT4, "1e-45", Held::Real(f64::from(f32::from_bits(1)))),
            (Type::FLOAT4, "NaN", Held::Null),
            (Type::INT4, "-7", Held::Real(-7.0)),
            (Type::INT8, "9007199254740993", Held::Real(9_007_199_254_740_992.0)),
            (Type::NUMERIC, "12345678901234567890123456789012345678", Held::Real(1.2345678901234568e37)),
            (Type::NUMERIC, "0.00000000000000000001", Held::Real(1e-20)),
            (Type::NUMERIC, "NaN", Held::Null),
            (Type::NUMERIC, "-Infinity", Held::Real(f64::NEG_INFINITY)),
            (Type::TEXT, "1.5e-3", Held::Real(0.0015)),
            (Type::BPCHAR, "-2  ", Held::Real(-2.0)),
            (Type::TEXT, "nan", Held::Rejected),
            (Type::TEXT, "inf", Held::Rejected),
            (Type::TEXT, "1e999", Held::Rejected),
            (Type::TEXT, "", Held::Rejected),
        ],
    );
    assert_eq!(convert(&Type::NUMERIC, Real, "9".repeat(400).as_bytes()), Held::Rejected);
    let Held::Real(zero) = convert(&Type::FLOAT8, Real, b"-0") else { panic!("not a REAL") };
    assert!(zero.is_sign_negative());
}

#[test]
fn text_is_the_server_s_but_for_times_and_booleans() {
    check(
        Text,
        &[
            (Type::TIMESTAMPTZ, "2024-02-29 12:34:56.789+00", text("2024-02-29T12:34:56.789Z")),
            (Type::TIMESTAMP, "2000-02-29 12:34:56.7", text("2000-02-29T12:34:56.7")),
            (Type::TIMESTAMP, "4713-01-01 00:00:00 BC", text("-4712-01-01T00:00:00")),
            (Type::TIMESTAMP, "10000-01-01 00:00:00", text("+10000-01-01T00:00:00")),
            (Type::TIMESTAMPTZ, "-infinity", text("-infinity")),
            (Type::DATE, "2024-02-29", text("2024-02-29")),
            (Type::DATE, "0044-03-15 BC", text("-0043-03-15")),
            (Type::BOOL, "t", text("true")),
            (Type::BOOL, "f", text("false")),
            (
                Type::UUID,
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            ),
            (Type::TEXT, "", text("")),
            (Type::TIMESTAMP, "now", Held::Rejected),
        ],
    );
    let unchanged = [
        (Type::NUMERIC, "12345678901234567890123456789012345678"),
        (Type::NUMERIC, "NaN"),
        (Type::NUMERIC, "-Infinity"),
        (Type::NUMERIC, "1.50"),
        (Type::FLOAT8, "2.2250738585072014e-308"),
        (Type::FLOAT4, "1e+06"),
        (Type::INT8, "-9223372036854775808"),
        (Type::BYTEA, "\\x00ff10"),
        (Type::TIME, "24:00:00"),
        (Type::TIMETZ, "12:00:00+05:30:15"),
        (Type::INTERVAL, "P1Y2M3DT4H5M6.789S"),
        (Type::JSON, "{\"a\" : \"\\ud800\"}"),
        (Type::INT4_ARRAY, "[0:2]={1,2,3}"),
        (Type::TIMESTAMPTZ_ARRAY, "{\"2024-02-29 12:34:56.789+00\"}"),
        (Type::BPCHAR, "ab   "),
        (Type::INET, "10.0.0.1"),
        (Type::MONEY, "$12.50"),
        (Type::INT2_VECTOR, "1 2"),
        (Type::TEXT, "a\nü𝄞"),
    ];
    for (source, value) in unchanged {
        assert_eq!(convert(&source, Text, value.as_bytes()), text(value), "{source}");
    }
    assert_eq!(convert(&Type::TEXT, Text, b"\xff"), Held::Rejected);
}

#[test]
fn booleans_are_zero_or_one() {
    check(
        Boolean,
        &[
            (Type::BOOL, "t", Held::Integer(1)),
            (Type::BOOL, "f", Held::Integer(0)),
            (Type::INT4, "0", Held::Integer(0)),
            (Type::INT8, "-9223372036854775808", Held::Integer(1)),
            (Type::INT2, "x", Held::Rejected),
            (Type::TEXT, "t", Held::Integer(1)),
            (Type::TEXT, "false", Held::Integer(0)),
            (Type::BPCHAR, "true ", Held::Integer(1)),
            (Type::TEXT, "yes", Held::Rejected),
            (Type::TEXT, "T", Held::Rejected),
        ],
    );
}

#[test]
fn json_is_unchanged_and_other_types_become_json() {
    let raw = [
        (Type::JSON, r#"{"a" : "\ud800", "b":[1, 2 ] }"#),
        (Type::JSON, "null"),
        (Type::JSONB, r#"{"a": 2, "b": 1}"#),
        (Type::JSONB, r#""\u001fé""#),
    ];
    for (source, value) in raw {
        assert_eq!(convert(&source, Json, value.as_bytes()), text(value));
    }
    check(
        Json,
        &[
            (Type::INT8, "9223372036854775807", text("9223372036854775807")),
            (Type::NUMERIC, "1.50", text("1.50")),
            (Type::NUMERIC, "NaN", text("\"NaN\"")),
            (Type::FLOAT8, "1e-05", text("1e-05")),
            (Type::FLOAT8, "-Infinity", text("\"-Infinity\"")),
            (Type::BOOL, "f", text("false")),
            (Type::TEXT, "a\"\\\n\u{1}", text(r#""a\"\\\n\u0001""#)),
            (Type::TEXT, "", text("\"\"")),
            (Type::BYTEA, "\\x00ff", text(r#""\\x00ff""#)),
            (Type::TIMESTAMPTZ, "2024-02-29 12:34:56+00", text("\"2024-02-29T12:34:56Z\"")),
            (Type::DATE, "infinity", text("\"infinity\"")),
            (Type::TIME, "24:00:00", text("\"24:00:00\"")),
            (Type::INT2_VECTOR, "1 2", text("\"1 2\"")),
            (Type::INT4_ARRAY, "[0:1]={1,NULL}", text("[1,null]")),
            (Type::BOOL_ARRAY, "{t,f}", text("[true,false]")),
            (Type::TEXT_ARRAY, r#"{"a,b","c\"d"}"#, text(r#"["a,b","c\"d"]"#)),
            (Type::JSONB_ARRAY, r#"{"{\"a\": 1}",NULL}"#, text(r#"[{"a": 1},null]"#)),
            (Type::TIMESTAMPTZ_ARRAY, r#"{"2024-02-29 12:34:56+00"}"#, text(r#"["2024-02-29T12:34:56Z"]"#)),
            (Type::BOX_ARRAY, "{(1,1),(0,0);(4,5),(2,3)}", text(r#"["(1,1),(0,0)","(4,5),(2,3)"]"#)),
            (Type::INT4_ARRAY, "{1,x}", Held::Rejected),
            (Type::TEXT_ARRAY, "{a", Held::Rejected),
        ],
    );
    assert_eq!(convert(&Type::TEXT, Json, b"\xff"), Held::Rejected);
    assert_eq!(convert(&Type::TEXT_ARRAY, Json, b"{\xff}"), Held::Rejected);
}

#[test]
fn blobs_are_bytes() {
    check(
        Blob,
        &[
            (Type::BYTEA, "\\x00ff10", Held::Blob(vec![0, 255, 16])),
            (Type::BYTEA, "\\x", Held::Blob(vec![])),
            (Type::BYTEA, "", Held::Blob(vec![])),
            (Type::BYTEA, "\\000\\377\\020\\\\abc", Held::Blob(b"\0\xff\x10\\abc".to_vec())),
            (Type::BYTEA, "\\x0", Held::Rejected),
            (Type::BYTEA, "\\xzz", Held::Rejected),
            (Type::BYTEA, "\\400", Held::Rejected),
            (Type::BYTEA, "a\\", Held::Rejected),
            (
                Type::UUID,
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                Held::Blob(0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes().to_vec()),
            ),
            (Type::UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11", Held::Rejected),
            (Type::UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g", Held::Rejected),
            (Type::TEXT, "ü", Held::Blob("ü".into())),
            (Type::JSONB, "{\"a\": 1}", Held::Blob("{\"a\": 1}".into())),
        ],
    );
}

#[test]
fn unsupported_pairs_name_the_targets_that_work() {
    let unsupported = |source: &Type, target| {
        Conversion::choose(Oid(source.oid()), None, target).expect_err(source.name()).to_string()
    };
    assert_eq!(unsupported(&Type::TIME, Integer), "time cannot become INTEGER; possible: TEXT, JSON");
    assert_eq!(unsupported(&Type::BYTEA, Integer), "bytea cannot become INTEGER; possible: TEXT, JSON, BLOB");
    assert_eq!(
        unsupported(&Type::TIMESTAMPTZ, Real),
        "timestamptz cannot become REAL; possible: INTEGER, TEXT, JSON"
    );
    let never_integers =
        [Type::TIME, Type::INTERVAL, Type::JSON, Type::JSONB, Type::BYTEA, Type::UUID, Type::INT4_ARRAY];
    for source in never_integers {
        unsupported(&source, Integer);
        unsupported(&source, Real);
        unsupported(&source, Boolean);
    }
    for source in [Type::INT8, Type::NUMERIC, Type::BOOL, Type::DATE, Type::INET, Type::TEXT_ARRAY] {
        unsupported(&source, Blob);
    }
}

#[test]
fn an_unknown_type_is_text_and_its_array_is_json() {
    // An enum and an array over it, as CREATE TYPE numbers them.
    let (label, labels) = (Oid(16_500), Oid(16_501));
    let (scalar, fidelity) = Conversion::choose(label, None, Text).unwrap();
    assert_eq!((scalar, fidelity), (Conversion::Verbatim, Fidelity::Exact));
    let error = Conversion::choose(label, None, Integer).unwrap_err();
    assert_eq!(error.to_string(), "this type cannot become INTEGER; possible: TEXT, JSON");

    let (array, _) = Conversion::choose(labels, Some(label), Json).unwrap();
    let mut arena = Vec::new();
    let cell = array.text(b"{new,\"in work\"}", &mut arena);
    assert_eq!(held(cell, &arena), text("[\"new\",\"in work\"]"));
    // An array over a domain has an OID of its own, but its elements are what lies below the domain.
    let (array, _) = Conversion::choose(labels, Some(Oid(Type::INT8.oid())), Json).unwrap();
    assert_eq!(array, Conversion::JsonArray { element: JsonForm::Number, delimiter: b',' });
}

#[test]
fn a_rejection_never_tells_the_value() {
    for source in SOURCES {
        for target in TARGETS {
            let Ok((conversion, _)) = Conversion::choose(Oid(source.oid()), None, target) else { continue };
            if let Err(rejection) = conversion.text(b"s3cr3t\xff", &mut Vec::new()) {
                assert!(!rejection.to_string().contains("s3cr3t"), "{source} {target:?}");
            }
        }
    }
}

#[test]
fn what_may_lose_something_says_so() {
    let lossy: Vec<String> = SOURCES
        .iter()
        .flat_map(|source| TARGETS.map(|target| (source, target)))
        .filter(|(source, target)| {
            let choice = Conversion::choose(Oid(source.oid()), None, *target);
            matches!(choice, Ok((_, Fidelity::Lossy(_))))
        })
        .map(|(source, target)| format!("{source} {}", target.as_str()))
        .collect();
    assert_eq!(
        lossy.join(", "),
        "int2 BOOLEAN, int4 BOOLEAN, int8 REAL, int8 BOOLEAN, oid BOOLEAN, numeric INTEGER, numeric REAL, \
         float4 INTEGER, float8 INTEGER, text INTEGER, text REAL, text BOOLEAN, bpchar INTEGER, bpchar REAL, \
         bpchar BOOLEAN, timestamp INTEGER, timestamptz INTEGER"
    );
}

proptest! {
    #[test]
    fn integers_make_the_round_trip(value in any::<i64>()) {
        prop_assert_eq!(convert(&Type::INT8, Integer, value.to_string().as_bytes()), Held::Integer(value));
        prop_assert_eq!(convert(&Type::NUMERIC, Integer, format!("{value}.00").as_bytes()), Held::Integer(value));
        prop_assert_eq!(convert(&Type::INT8, Real, value.to_string().as_bytes()), Held::Real(value as f64));
    }

    #[test]
    fn floats_make_the_round_trip(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let expected = if value.is_nan() { Held::Null } else { Held::Real(value) };
        prop_assert_eq!(convert(&Type::FLOAT8, Real, format!("{value:e}").as_bytes()), expected.clone());
        prop_assert_eq!(convert(&Type::FLOAT8, Real, format!("{value}").as_bytes()), expected);
    }

    #[test]
    fn text_is_identical_in_the_arena(value in any::<String>()) {
        prop_assert_eq!(convert(&Type::TEXT, Text, value.as_bytes()), text(value.clone()));
        let Held::Text(json) = convert(&Type::TEXT, Json, value.as_bytes()) else { panic!("not JSON") };
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
    }

    #[test]
    fn bytes_make_the_round_trip_in_both_formats(value in any::<Vec<u8>>()) {
        let hex = format!("\\x{}", hex::encode(&value));
        prop_assert_eq!(convert(&Type::BYTEA, Blob, hex.as_bytes()), Held::Blob(value.clone()));
        let escape: String = value.iter().map(|&byte| match byte {
            b'\\' => "\\\\".to_owned(),
            0x20..=0x7e => char::from(byte).to_string(),
            _ => format!("\\{byte:03o}"),
        }).collect();
        prop_assert_eq!(convert(&Type::BYTEA, Blob, escape.as_bytes()), Held::Blob(value));
    }

    #[test]
    fn no_bytes_make_a_conversion_panic_or_give_text_that_is_not_utf8(
        value in prop_oneof![any::<Vec<u8>>(), "[-+0-9.:, {}\\[\\]\"\\\\xeNaInfityBCtrue]{0,32}".prop_map(String::into_bytes)],
    ) {
        for source in SOURCES {
            for target in TARGETS {
                let Ok((conversion, _)) = Conversion::choose(Oid(source.oid()), None, target) else { continue };
                let mut arena = Vec::new();
                // `held` fails on text that is not UTF-8.
                let held = held(conversion.text(&value, &mut arena), &arena);
                let is_raw = matches!(source, Type::JSON | Type::JSONB);
                if let (Json, false, Held::Text(json)) = (target, is_raw, held) {
                    prop_assert!(serde_json::from_str::<IgnoredAny>(&json).is_ok(), "{} {}", source, json);
                }
            }
        }
    }
}
