//! Every Postgres type with its extreme values, through the real server and the real engine into a STRICT replica:
//! what arrives is what the table in `encode::value` says.

#[path = "support/pipeline.rs"]
mod pipeline;

use pipeline::Pipeline;
use serde_json::{Map, Value, json};

/// What a value becomes in one target type: SQLite's `typeof` and its text, or why it is set aside.
enum Becomes {
    Is(&'static str, &'static str),
    Rejected(&'static str),
}
use Becomes::{Is, Rejected};

const INTEGER: &str = "INTEGER";
const REAL: &str = "REAL";
const TEXT: &str = "TEXT";
const BOOLEAN: &str = "BOOLEAN";
const JSON: &str = "JSON";
const BLOB: &str = "BLOB";

/// A running pipeline with a SQLite replica and two D1 databases, one through each transport.
fn pipeline(sql: &str, schema: &Value) -> Pipeline {
    let mut pipeline =
        Pipeline::builder().sink("file", "").d1("d1", "").d1_worker("worker", "").build(sql, schema);
    pipeline.begin();
    pipeline
}

/// Ends everything that writes, so that every replica can be read as a file, with its exact types.
fn freeze(pipeline: &mut Pipeline) {
    assert_eq!(pipeline.stop(), Some(0));
    assert_eq!(pipeline.broken_limits(), Vec::<String>::new());
    pipeline.workerd.as_mut().unwrap().kill().unwrap();
}

/// Inserts every value into a table of its own pair of types and compares what the replica holds.
fn check(setup: &str, cases: &[(&str, &str, &str, Becomes)]) {
    let mut tables: Vec<(&str, &str)> = Vec::new();
    for (source, _, target, _) in cases {
        if !tables.contains(&(source, target)) {
            tables.push((source, target));
        }
    }
    let name = |source: &str, target: &str| {
        format!("t{}", tables.iter().position(|table| *table == (source, target)).unwrap())
    };
    let (mut create, mut insert, mut schema) = (setup.to_owned(), String::new(), Map::new());
    for (source, target) in &tables {
        let table = name(source, target);
        create.push_str(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v {source});"));
        let columns = json!({"id": INTEGER, "v": target});
        schema.insert(table, json!({"primaryKey": "id", "columns": columns}));
    }
    for (id, (source, value, target, _)) in cases.iter().enumerate() {
        insert.push_str(&format!("INSERT INTO {} VALUES ({id}, {value});", name(source, target)));
    }
    let mut pipeline = pipeline(&create, &Value::Object(schema));
    pipeline.exec(&insert);
    pipeline.catch_up();
    freeze(&mut pipeline);
    for replica in pipeline.replicas() {
        for (id, (source, value, target, becomes)) in cases.iter().enumerate() {
            let table = name(source, target);
            let what = format!("{value} of {source} as {target}");
            let rows = replica.rows(&format!("SELECT typeof(v), v FROM {table} WHERE id = {id}"));
            match becomes {
                Is(kind, text) => assert_eq!(rows, [format!("{kind}|{text}")], "{what}"),
                Rejected(reason) => {
                    assert!(rows.is_empty(), "{what}: {rows:?}");
                    let letters = replica.rows(&format!(
                        "SELECT operation, reason FROM _walcast_dead_letters
                          WHERE target = '{table}' AND json_extract(key, '$[0]') = {id}"
                    ));
                    assert_eq!(letters, [format!("insert|v: {reason}")], "{what}");
                }
            }
        }
    }
}

#[test]
fn integers_are_exact_to_64_bits() {
    check(
        "",
        &[
            ("int8", "-9223372036854775808", INTEGER, Is("integer", "-9223372036854775808")),
            ("int8", "9223372036854775807", INTEGER, Is("integer", "9223372036854775807")),
            ("int8", "9007199254740991", INTEGER, Is("integer", "9007199254740991")),
            ("int8", "9007199254740993", INTEGER, Is("integer", "9007199254740993")),
            ("int8", "NULL", INTEGER, Is("null", "NULL")),
            ("int8", "-9223372036854775808", TEXT, Is("text", "-9223372036854775808")),
            ("int8", "9223372036854775807", JSON, Is("text", "9223372036854775807")),
            ("int8", "9007199254740992", REAL, Is("real", "9007199254740992.0")),
            ("int8", "-1", BOOLEAN, Is("integer", "1")),
            ("int8", "0", BOOLEAN, Is("integer", "0")),
            ("int2", "-32768", INTEGER, Is("integer", "-32768")),
            ("int4", "-2147483648", INTEGER, Is("integer", "-2147483648")),
            ("int4", "2147483647", REAL, Is("real", "2147483647.0")),
            ("oid", "4294967295", INTEGER, Is("integer", "4294967295")),
            ("bool", "true", INTEGER, Is("integer", "1")),
            ("bool", "false", BOOLEAN, Is("integer", "0")),
            ("bool", "true", TEXT, Is("text", "true")),
            ("bool", "false", JSON, Is("text", "false")),
            ("text", "'-9223372036854775808'", INTEGER, Is("integer", "-9223372036854775808")),
            ("text", "'9223372036854775808'", INTEGER, Rejected("text is not an integer of 64 bits")),
            ("text", "'1.0'", INTEGER, Rejected("text is not an integer of 64 bits")),
            ("char(5)", "'42'", INTEGER, Is("integer", "42")),
            ("text", "'t'", BOOLEAN, Is("integer", "1")),
            ("text", "'yes'", BOOLEAN, Rejected("text is neither t, true, f nor false")),
        ],
    );
}

#[test]
fn numerics_keep_their_digits_and_floats_their_value() {
    const DIGITS: &str = "12345678901234567890123456789.012345678";
    const FRACTION: &str = "numeric has a fraction and cannot be an INTEGER";
    const NAN: &str = "numeric is NaN or infinite and cannot be an INTEGER";
    check(
        "",
        &[
            ("numeric", DIGITS, TEXT, Is("text", DIGITS)),
            ("numeric", DIGITS, JSON, Is("text", DIGITS)),
            ("numeric", "-0.00", TEXT, Is("text", "0.00")),
            ("numeric", "'NaN'", TEXT, Is("text", "NaN")),
            ("numeric", "'Infinity'", TEXT, Is("text", "Infinity")),
            ("numeric", "'NaN'", JSON, Is("text", "\"NaN\"")),
            ("numeric", "'-Infinity'", JSON, Is("text", "\"-Infinity\"")),
            ("numeric", "12.000", INTEGER, Is("integer", "12")),
            ("numeric", "9223372036854775807", INTEGER, Is("integer", "9223372036854775807")),
            ("numeric", "-9223372036854775808", INTEGER, Is("integer", "-9223372036854775808")),
            (
                "numeric",
                "9223372036854775808",
                INTEGER,
                Rejected("numeric is beyond 64 bits and cannot be an INTEGER"),
            ),
            ("numeric", "0.5", INTEGER, Rejected(FRACTION)),
            ("numeric", "'NaN'", INTEGER, Rejected(NAN)),
            ("numeric", "'Infinity'", INTEGER, Rejected(NAN)),
            ("numeric", "0.1", REAL, Is("real", "0.1")),
            ("numeric", "'NaN'", REAL, Is("null", "NULL")),
            ("numeric", "'Infinity'", REAL, Is("real", "inf")),
            ("numeric", "1e400", REAL, Rejected("number is beyond the range of a REAL")),
            ("float8", "1.7976931348623157e308", REAL, Is("real", "1.7976931348623157e308")),
            ("float8", "5e-324", REAL, Is("real", "5e-324")),
            ("float8", "'NaN'", REAL, Is("null", "NULL")),
            ("float8", "'-Infinity'", REAL, Is("real", "-inf")),
            // SQLite stores a REAL without a fraction as an integer, which has no sign at zero.
            ("float8", "'-0'", REAL, Is("real", "0.0")),
            ("float8", "0.1", TEXT, Is("text", "0.1")),
            ("float8", "'NaN'", TEXT, Is("text", "NaN")),
            ("float8", "1e15", INTEGER, Is("integer", "1000000000000000")),
            ("float8", "1e19", INTEGER, Rejected("float is beyond 64 bits and cannot be an INTEGER")),
            ("float8", "0.5", INTEGER, Rejected("float has a fraction and cannot be an INTEGER")),
            ("float4", "0.1", REAL, Is("real", "0.10000000149011612")),
            ("float4", "0.1", TEXT, Is("text", "0.1")),
            ("text", "'1.5e-3'", REAL, Is("real", "0.0015")),
            ("text", "'nan'", REAL, Rejected("text is not a decimal number within the range of a REAL")),
        ],
    );
}

#[test]
fn times_keep_their_meaning_at_both_ends_of_the_calendar() {
    check(
        "",
        &[
            ("timestamptz", "'infinity'", INTEGER, Is("integer", "9223372036854775807")),
            ("timestamptz", "'-infinity'", INTEGER, Is("integer", "-9223372036854775808")),
            ("timestamptz", "'infinity'", TEXT, Is("text", "infinity")),
            ("timestamptz", "'-infinity'", JSON, Is("text", "\"-infinity\"")),
            ("timestamptz", "'2024-02-29 12:34:56.789+02'", TEXT, Is("text", "2024-02-29T10:34:56.789Z")),
            ("timestamptz", "'2024-02-29 12:34:56.789+02'", INTEGER, Is("integer", "1709202896")),
            ("timestamptz", "'1969-12-31 23:59:59.5+00'", INTEGER, Is("integer", "-1")),
            ("timestamptz", "'4714-11-24 00:00:00+00 BC'", TEXT, Is("text", "-4713-11-24T00:00:00Z")),
            (
                "timestamptz",
                "'294276-12-31 23:59:59.999999+00'",
                TEXT,
                Is("text", "+294276-12-31T23:59:59.999999Z"),
            ),
            ("timestamptz", "'294276-12-31 23:59:59.999999+00'", INTEGER, Is("integer", "9224318015999")),
            ("timestamp", "'2024-02-29 12:34:56.000001'", TEXT, Is("text", "2024-02-29T12:34:56.000001")),
            ("timestamp", "'4713-01-01 00:00:00 BC'", TEXT, Is("text", "-4712-01-01T00:00:00")),
            ("timestamp", "'4713-01-01 00:00:00 BC'", INTEGER, Is("integer", "-210863520000")),
            ("date", "'4713-01-01 BC'", TEXT, Is("text", "-4712-01-01")),
            ("date", "'4713-01-01 BC'", INTEGER, Is("integer", "-210863520000")),
            ("date", "'5874897-12-31'", TEXT, Is("text", "+5874897-12-31")),
            ("date", "'infinity'", INTEGER, Is("integer", "9223372036854775807")),
            ("date", "'infinity'", TEXT, Is("text", "infinity")),
            ("time", "'24:00:00'", TEXT, Is("text", "24:00:00")),
            ("time", "'24:00:00'", JSON, Is("text", "\"24:00:00\"")),
            ("timetz", "'23:59:59.999999+15:59'", TEXT, Is("text", "23:59:59.999999+15:59")),
            ("interval", "'1 year -2 mons +3 days 04:05:06.789'", TEXT, Is("text", "P10M3DT4H5M6.789S")),
            ("interval", "'-178000000 years'", TEXT, Is("text", "P-178000000Y")),
        ],
    );
}

#[test]
fn texts_json_and_bytes_arrive_byte_by_byte() {
    check(
        "",
        &[
            ("text", "''", TEXT, Is("text", "")),
            ("text", "''", BLOB, Is("blob", "x''")),
            ("text", "E'\\t\"\\\\ \\u00e9 \\U0001F600 \\n'", TEXT, Is("text", "\t\"\\ é 😀 \n")),
            ("text", "E'\\t\"\\\\\\u00e9'", JSON, Is("text", "\"\\t\\\"\\\\é\"")),
            ("varchar(3)", "'é€x'", BLOB, Is("blob", "x'c3a9e282ac78'")),
            ("char(4)", "'a'", TEXT, Is("text", "a   ")),
            ("\"char\"", "'x'", TEXT, Is("text", "x")),
            ("name", "'n'", TEXT, Is("text", "n")),
            (
                "json",
                "'{\"b\": \"\\ud800\", \"b\" :1e400}'",
                JSON,
                Is("text", "{\"b\": \"\\ud800\", \"b\" :1e400}"),
            ),
            ("json", "'\"\\u0000\"'", JSON, Is("text", "\"\\u0000\"")),
            ("json", "' [1 ] '", TEXT, Is("text", " [1 ] ")),
            (
                "jsonb",
                "'{\"b\":[1.10,null],\"a\":\"\\ud83d\\ude00\"}'",
                JSON,
                Is("text", "{\"a\": \"😀\", \"b\": [1.10, null]}"),
            ),
            ("jsonb", "'null'", JSON, Is("text", "null")),
            ("jsonb", "NULL", JSON, Is("null", "NULL")),
            ("jsonb", "'1'", BLOB, Is("blob", "x'31'")),
            ("bytea", "'\\x00'", BLOB, Is("blob", "x'00'")),
            ("bytea", "'\\x'", BLOB, Is("blob", "x''")),
            ("bytea", "'\\x00ff5c27'", BLOB, Is("blob", "x'00ff5c27'")),
            ("bytea", "'\\x00ff'", TEXT, Is("text", "\\x00ff")),
            ("bytea", "'\\x00ff'", JSON, Is("text", "\"\\\\x00ff\"")),
            (
                "uuid",
                "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
                TEXT,
                Is("text", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            ),
            (
                "uuid",
                "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
                BLOB,
                Is("blob", "x'a0eebc999c0b4ef8bb6d6bb9bd380a11'"),
            ),
            ("xml", "'<a b=\"c\"/>'", TEXT, Is("text", "<a b=\"c\"/>")),
        ],
    );
}

#[test]
fn arrays_domains_enums_and_the_rarer_types_have_their_documented_form() {
    check(
        "CREATE TYPE mood AS ENUM ('sad', 'o\"k', '');
         CREATE TYPE pair AS (a int, b text);
         CREATE DOMAIN positive AS int8 CHECK (VALUE > 0);
         CREATE DOMAIN more_positive AS positive CHECK (VALUE > 1);
         CREATE DOMAIN tags AS text[];
         CREATE EXTENSION IF NOT EXISTS plpgsql;",
        &[
            ("int8[]", "'{1,NULL,-9223372036854775808}'", JSON, Is("text", "[1,null,-9223372036854775808]")),
            ("int4[]", "'{{1,2},{3,NULL}}'", JSON, Is("text", "[[1,2],[3,null]]")),
            ("int4[]", "'[-1:0]={7,8}'", JSON, Is("text", "[7,8]")),
            ("int4[]", "'{}'", JSON, Is("text", "[]")),
            ("int4[]", "'{1,NULL}'", TEXT, Is("text", "{1,NULL}")),
            (
                "text[]",
                "ARRAY['a,b', '\"', '\\', 'NULL', NULL, '', '{}', E'\\n']",
                JSON,
                Is("text", "[\"a,b\",\"\\\"\",\"\\\\\",\"NULL\",null,\"\",\"{}\",\"\\n\"]"),
            ),
            ("bool[]", "'{t,f,NULL}'", JSON, Is("text", "[true,false,null]")),
            ("numeric[]", "'{1.10,NaN}'", JSON, Is("text", "[1.10,\"NaN\"]")),
            ("jsonb[]", "ARRAY['{\"a\":\"b\"}'::jsonb, '1']", JSON, Is("text", "[{\"a\": \"b\"},1]")),
            (
                "timestamptz[]",
                "'{infinity,2024-02-29 12:00:00+00}'",
                JSON,
                Is("text", "[\"infinity\",\"2024-02-29T12:00:00Z\"]"),
            ),
            ("bytea[]", "ARRAY['\\x00'::bytea]", JSON, Is("text", "[\"\\\\x00\"]")),
            ("box[]", "'{(1,1),(0,0);(3,3),(2,2)}'", JSON, Is("text", "[\"(1,1),(0,0)\",\"(3,3),(2,2)\"]")),
            ("mood[]", "ARRAY['o\"k'::mood, '', NULL]", JSON, Is("text", "[\"o\\\"k\",\"\",null]")),
            ("more_positive", "9223372036854775807", INTEGER, Is("integer", "9223372036854775807")),
            ("tags", "'{a,NULL}'", JSON, Is("text", "[\"a\",null]")),
            ("positive[]", "'{5}'", JSON, Is("text", "[5]")),
            ("mood", "'o\"k'", TEXT, Is("text", "o\"k")),
            ("mood", "''", JSON, Is("text", "\"\"")),
            ("pair", "ROW(1, 'x,y')", TEXT, Is("text", "(1,\"x,y\")")),
            ("inet", "'::ffff:1.2.3.4/96'", TEXT, Is("text", "::ffff:1.2.3.4/96")),
            ("cidr", "'10.0.0.0/8'", TEXT, Is("text", "10.0.0.0/8")),
            ("macaddr", "'08:00:2b:01:02:03'", TEXT, Is("text", "08:00:2b:01:02:03")),
            ("money", "'-92233720368547758.08'", TEXT, Is("text", "-$92,233,720,368,547,758.08")),
            ("bit(3)", "B'101'", TEXT, Is("text", "101")),
            ("varbit", "B''", TEXT, Is("text", "")),
            ("point", "'(1.5,-0)'", TEXT, Is("text", "(1.5,-0)")),
            ("tsvector", "'a:1 b'", TEXT, Is("text", "'a':1 'b'")),
            ("int4range", "'[1,5)'", TEXT, Is("text", "[1,5)")),
            ("int4multirange", "'{[1,3),[5,7)}'", JSON, Is("text", "\"{[1,3),[5,7)}\"")),
            ("pg_lsn", "'FFFFFFFF/FFFFFFFF'", TEXT, Is("text", "FFFFFFFF/FFFFFFFF")),
        ],
    );
}

#[test]
fn a_mebibyte_of_text_json_or_bytes_arrives_whole() {
    let columns = json!({"id": "INTEGER", "t": "TEXT", "j": "JSON", "b": "BLOB"});
    let mut pipeline = pipeline(
        "CREATE TABLE big (id int PRIMARY KEY, t text, j jsonb, b bytea)",
        &json!({"big": {"primaryKey": "id", "columns": columns}}),
    );
    pipeline.exec(
        "INSERT INTO big SELECT 1, string_agg(md5(n::text), ''), jsonb_agg(md5(n::text)), \
                decode(string_agg(md5(n::text), ''), 'hex')
           FROM generate_series(1, 32768) n",
    );
    pipeline.catch_up();
    freeze(&mut pipeline);
    // D1 takes rows of 2 MB.
    let letters = pipeline.replica("d1").dead_letters();
    assert_eq!(letters, ["big|upsert|[1]|the row has 2752520 bytes, more than the 2000000 that D1 takes"]);
    let replica = pipeline.replica("file");
    assert_eq!(
        replica.rows("SELECT length(t), json_array_length(j), length(b), substr(t, -32) FROM big"),
        pipeline.exec("SELECT length(t), jsonb_array_length(j), length(b), right(t, 32) FROM big"),
    );
    assert_eq!(replica.ask("SELECT length(t) FROM big"), "1048576");
    assert_eq!(replica.ask("SELECT hex(b) = upper(t) FROM big"), "1");
}
