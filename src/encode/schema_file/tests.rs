//! Good and bad files, with the exact words.

use proptest::prelude::*;

use super::*;

/// The example of the definition that walcast keeps to, word for word, in the braces it leaves out.
const EXAMPLE: &str = r#"{
    "stripe_info": {
      "primaryKey": "id",
      "columns": {
        "id": "INTEGER",
        "customer_id": "TEXT",
        "status": "TEXT",
        "trial_at": "TEXT",
        "is_good_plan": "BOOLEAN",
        // ... other columns
      },
      "indexes": [
        "customer_id", // Single index
        "trial_at",    // Single index
        ["status", "is_good_plan"] // Composite index
      ]
    }
}"#;

fn public(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

fn columns(names: &[&str]) -> OneOrMore {
    OneOrMore(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Asserts the exact lines of the error.
fn assert_wrong(text: &str, expected: &[&str]) {
    let error = SchemaFile::parse("schema.json", text).expect_err(text);
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn the_example_of_the_definition_is_accepted() {
    let file = SchemaFile::parse("schema.json", EXAMPLE).unwrap();
    let entry = &file.tables[&public("stripe_info")];
    assert_eq!(entry.primary_key, columns(&["id"]));
    let order: Vec<&str> = entry.columns.keys().map(String::as_str).collect();
    assert_eq!(order, ["id", "customer_id", "status", "trial_at", "is_good_plan"]);
    assert_eq!(entry.columns["is_good_plan"], ColumnType::Boolean);
    let indexes = [columns(&["customer_id"]), columns(&["trial_at"]), columns(&["status", "is_good_plan"])];
    assert_eq!(entry.indexes, indexes);
}

#[test]
fn every_key_is_read() {
    let text = r#"/* all of it */ {
        "$schema": "https://example.org/schema.schema.json",
        "targetTemplate": "tmp_{schema}_{table}",
        "audit.events": {
            "primaryKey": ["tenant", "id"],
            "columns": { "id": "INTEGER", "tenant": "TEXT", "body": "JSON", "raw": "BLOB", "score": "REAL" },
            "rename": { "body": "payload" },
            "softDelete": "deleted_at",
        },
        "\"odd.name\"": { "primaryKey": "id", "columns": { "id": "TEXT" }, "target": "odd" },
        "a.\"b\"\"c\"": { "primaryKey": "id", "columns": { "id": "TEXT" } },
        "public.users": { "primaryKey": "id", "columns": { "id": "TEXT" } },
    }"#;
    let file = SchemaFile::parse("schema.json", text).unwrap();
    let names: Vec<(String, String)> = file
        .tables
        .iter()
        .map(|(table, entry)| (table.to_string(), file.target_name(table, entry)))
        .collect();
    let expected = [
        (r#""audit"."events""#, "tmp_audit_events"),
        (r#""public"."odd.name""#, "odd"),
        (r#""a"."b""c""#, r#"tmp_a_b"c"#),
        (r#""public"."users""#, "tmp_public_users"),
    ];
    assert_eq!(names, expected.map(|(source, target)| (source.to_owned(), target.to_owned())));
    let events = &file.tables[0];
    assert_eq!(events.soft_delete.as_deref(), Some("deleted_at"));
    let targets: Vec<&str> = events.target_columns().map(|(_, target, _)| target).collect();
    assert_eq!(targets, ["id", "tenant", "payload", "raw", "score"]);
}

#[test]
fn without_a_template_a_table_keeps_its_own_name_in_any_schema() {
    let text = r#"{ "audit.events": { "primaryKey": "id", "columns": { "id": "TEXT" } } }"#;
    let file = SchemaFile::parse("schema.json", text).unwrap();
    let (table, entry) = file.tables.first().unwrap();
    assert_eq!(file.target_name(table, entry), "events");
}

#[test]
fn a_template_is_filled_once() {
    let table = TableName { schema: "{table}".to_owned(), name: "{schema}".to_owned() };
    assert_eq!(fill("{schema}/{table}", &table), "{table}/{schema}");
}

#[test]
fn a_wrong_type_is_told_with_line_column_and_path() {
    assert_wrong(
        &EXAMPLE.replace(r#""trial_at": "TEXT""#, r#""trial_at": "TIMESTAMP""#),
        &[
            "schema.json:8:21: stripe_info.columns.trial_at: unknown type \"TIMESTAMP\", expected one of INTEGER, REAL, \
           TEXT, BOOLEAN, JSON, BLOB",
        ],
    );
}

#[test]
fn wrong_syntax_is_told_where_it_is() {
    let cases = [
        ("", "schema.json: the file is empty"),
        ("// nothing\n", "schema.json: the file is empty"),
        ("{", "schema.json:1:1: unterminated object"),
        ("{\n  \"a\" 1\n}", "schema.json:2:7: expected colon after the string or word in object property"),
        ("{ \"a\": {} \"b\": {} }", "schema.json:1:10: expected comma"),
        ("{ a: {} }", "schema.json:1:3: expected string for object property"),
        ("{ 'a': {} }", "schema.json:1:3: single-quoted strings are not allowed"),
        ("{} {}", "schema.json:1:4: text cannot contain more than one JSON value"),
        ("{ /* }", "schema.json:1:3: unterminated comment block"),
    ];
    for (text, expected) in cases {
        assert_wrong(text, &[expected]);
    }
}

#[test]
fn wrong_shapes_are_told_together_and_in_order() {
    assert_wrong("[]", &["schema.json: expected an object of tables, found an array"]);
    assert_wrong("{}", &["schema.json: there is no table in it"]);
    assert_wrong(
        r#"{
  "$schema": 1,
  "targetTemplate": [],
  "a.b.c": {},
  "t": {
    "primarykey": "id",
    "columns": { "id": "int", "n": 3 },
    "index": []
  },
  "u": { "primaryKey": 1, "columns": { "id": "TEXT", "id": "TEXT" }, "indexes": ["id", [1]], "zzz": 0 },
  "v": { "columns": { "id": "TEXT" } },
  "w": null
}"#,
        &[
            "schema.json:2:14: $schema: expected a string, found a number",
            "schema.json:3:21: targetTemplate: expected a string, found an array",
            "schema.json:4:3: a.b.c: expected `table` or `schema.table`; put a part with a dot in double quotes",
            "schema.json:6:5: t.primarykey: unknown key, did you mean \"primaryKey\"?",
            "schema.json:7:24: t.columns.id: unknown type \"int\", expected one of INTEGER, REAL, TEXT, BOOLEAN, JSON, \
             BLOB",
            "schema.json:7:36: t.columns.n: expected a string, found a number",
            "schema.json:8:5: t.index: unknown key, did you mean \"indexes\"?",
            "schema.json:10:24: u.primaryKey: expected a column's name or an array of them",
            "schema.json:10:54: u.columns.id: this key is here twice",
            "schema.json:10:88: u.indexes[1]: expected a column's name or an array of them",
            "schema.json:10:94: u.zzz: unknown key, expected one of primaryKey, columns, indexes, target, rename, \
             softDelete",
            "schema.json:11:8: v: primaryKey is missing",
            "schema.json:12:8: w: expected an object with keys, found nothing",
        ],
    );
}

#[test]
fn broken_rules_are_told_together() {
    assert_wrong(
        r#"{
  "targetTemplate": "x",
  "a": { "primaryKey": ["id", "id", "no"], "columns": { "id": "TEXT", "": "TEXT" }, "target": "sqlite_x" },
  "b": { "primaryKey": [], "columns": { "k": "REAL" }, "indexes": [[], "no", "k", ["k"]], "target": "" },
  "c": { "primaryKey": "k", "columns": { "k": "REAL", "K": "TEXT" }, "target": "_Walcast_c" },
  "d": { "primaryKey": "k", "columns": {}, "target": "_cf_d", "softDelete": "deleted_at" },
  "e": { "primaryKey": "k", "columns": { "k": "TEXT", "l": "TEXT" },
         "rename": { "k": "x", "l": "X", "no": "y" }, "softDelete": "x", "target": "E" },
  "f": { "primaryKey": "k", "columns": { "k": "TEXT" }, "target": "e\u0000" },
  "public.f": { "primaryKey": "k", "columns": { "k": "TEXT" } },
  "g": { "primaryKey": "k", "columns": { "k": "TEXT" }, "target": "e" }
}"#,
        &[
            "schema.json:2:21: targetTemplate: it must contain {table}, or all tables would share one name",
            "schema.json:3:24: a.primaryKey: the column \"id\" is here twice",
            "schema.json:3:24: a.primaryKey: the column \"no\" is not among the table's columns",
            "schema.json:3:75: a.columns.\"\": a name must not be empty",
            "schema.json:3:95: a.target: the target table \"sqlite_x\" begins with \"sqlite_\", which is reserved",
            "schema.json:4:24: b.primaryKey: there is no column in it",
            "schema.json:4:68: b.indexes[0]: there is no column in it",
            "schema.json:4:72: b.indexes[1]: the column \"no\" is not among the table's columns",
            "schema.json:4:83: b.indexes[3]: this index is here twice",
            "schema.json:4:101: b.target: a name must not be empty",
            "schema.json:5:24: c.primaryKey: the column \"k\" is REAL, which cannot identify a row",
            "schema.json:5:60: c.columns.K: the target column \"K\" is already that of \"k\"; SQLite ignores case",
            "schema.json:5:80: c.target: the target table \"_Walcast_c\" begins with \"_walcast_\", which is reserved",
            "schema.json:6:24: d.primaryKey: the column \"k\" is not among the table's columns",
            "schema.json:6:40: d.columns: there is no column in it",
            "schema.json:6:54: d.target: the target table \"_cf_d\" begins with \"_cf_\", which is reserved",
            "schema.json:8:37: e.rename.l: the target column \"X\" is already that of \"k\"; SQLite ignores case",
            "schema.json:8:48: e.rename.no: the column \"no\" is not among the table's columns",
            "schema.json:8:69: e.softDelete: the target column \"x\" is already that of \"l\"",
            "schema.json:9:67: f.target: a name must not contain a NUL character",
            "schema.json:10:3: public.f: this is the same source table as \"f\"",
            "schema.json:11:67: g.target: the target table \"e\" is already that of \"e\"",
        ],
    );
}

#[test]
fn templates_may_collide_and_are_checked() {
    let table = r#"{ "primaryKey": "k", "columns": { "k": "TEXT" } }"#;
    assert_wrong(
        &format!(r#"{{ "a.t": {table}, "b.T": {table} }}"#),
        &["schema.json:1:68: b.T: the target table \"T\" is already that of \"a.t\""],
    );
    assert_wrong(
        &format!(r#"{{ "targetTemplate": "{{table}}_{{region}}", "t": {table} }}"#),
        &["schema.json:1:21: targetTemplate: only {table} and {schema} may stand between braces"],
    );
}

#[test]
fn a_table_has_at_most_a_hundred_columns_with_the_one_for_deletions() {
    let text = |columns: usize| {
        let columns: Vec<String> = (0..columns).map(|number| format!(r#""c{number}": "TEXT""#)).collect();
        let columns = columns.join(", ");
        format!(
            r#"{{ "t": {{ "primaryKey": "c0", "columns": {{ {columns} }}, "softDelete": "deleted_at" }} }}"#
        )
    };
    SchemaFile::parse("schema.json", &text(99)).unwrap();
    assert_wrong(
        &text(100),
        &["schema.json:1:41: t.columns: 101 columns, but D1 takes at most 100 in a table"],
    );
}

#[test]
fn columns_are_counted_in_characters_and_lines_by_line_feeds() {
    assert_wrong(
        "\u{feff}{\r\n\"größe\": { \"primaryKey\": 5, \"columns\": { \"k\": \"TEXT\" } } }",
        &["schema.json:2:26: größe.primaryKey: expected a column's name or an array of them"],
    );
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    for open in ["[", "{\"a\":"] {
        SchemaFile::parse("schema.json", &open.repeat(100_000)).unwrap_err();
    }
}

#[test]
fn the_canonical_text_writes_one_key_column_as_a_string() {
    let file = SchemaFile::parse("schema.json", EXAMPLE).unwrap();
    let expected = r#"{
  "stripe_info": {
    "primaryKey": "id",
    "columns": {
      "id": "INTEGER",
      "customer_id": "TEXT",
      "status": "TEXT",
      "trial_at": "TEXT",
      "is_good_plan": "BOOLEAN"
    },
    "indexes": [
      "customer_id",
      "trial_at",
      [
        "status",
        "is_good_plan"
      ]
    ]
  }
}
"#;
    assert_eq!(file.to_json_pretty(), expected);
}

/// `UPDATE_GOLDEN=1 cargo test --lib schema` writes the file anew.
#[test]
fn the_committed_json_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/encode/schema.schema.json");
    let generated = SchemaFile::json_schema();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, generated, "run UPDATE_GOLDEN=1 cargo test --lib schema");
}

fn column_type() -> impl Strategy<Value = ColumnType> {
    prop::sample::select(ColumnType::ALL.to_vec())
}

/// Names of every shape that a key can have, reserved ones included; distinct after folding by their number.
fn name(prefix: &'static str, number: usize) -> impl Strategy<Value = String> {
    let odd =
        prop::sample::select(vec!["", ".", "\"", ".\"", "\"\".", " ", "é", "\n", "\\", "$schema", "{table}"]);
    odd.prop_map(move |odd| format!("{prefix}{number}{odd}"))
}

fn entry(number: usize) -> impl Strategy<Value = TableEntry> {
    let columns = prop::collection::vec(column_type(), 1..6).prop_flat_map(|types| {
        let names: Vec<_> = (0..types.len()).map(|number| name("c", number)).collect();
        names.prop_map(move |names| names.into_iter().zip(types.clone()).collect::<IndexMap<_, _>>())
    });
    let target = prop::option::of(name("target", number));
    (columns, target, any::<bool>(), any::<bool>(), 1..4usize).prop_map(
        |(mut columns, target, is_renamed, is_soft, key_columns)| {
            let names: Vec<String> = columns.keys().cloned().collect();
            let key = OneOrMore(names.iter().take(key_columns).cloned().collect());
            for name in &key.0 {
                columns[name] = ColumnType::Text;
            }
            TableEntry {
                primary_key: key.clone(),
                columns,
                indexes: if is_renamed { vec![key] } else { Vec::new() },
                target,
                rename: names
                    .into_iter()
                    .take(usize::from(is_renamed))
                    .map(|name| (name, "r".into()))
                    .collect(),
                soft_delete: is_soft.then(|| "deleted_at".to_owned()),
            }
        },
    )
}

fn file() -> impl Strategy<Value = SchemaFile> {
    let tables = (1..4usize).prop_flat_map(|count| {
        let tables: Vec<_> = (0..count)
            .map(|number| {
                let schema = prop_oneof![Just("public".to_owned()), name("s", number)];
                let table = (schema, name("t", number)).prop_map(|(schema, name)| TableName { schema, name });
                (table, entry(number))
            })
            .collect();
        tables.prop_map(|tables| tables.into_iter().collect::<IndexMap<_, _>>())
    });
    let template = prop::option::of(Just("x_{schema}_{table}".to_owned()));
    (tables, template, prop::option::of(Just("x".to_owned()))).prop_map(
        |(tables, target_template, editor_schema)| SchemaFile { editor_schema, target_template, tables },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(file in file()) {
        prop_assert_eq!(SchemaFile::parse("schema.json", &file.to_json_pretty()).unwrap(), file);
    }

    #[test]
    fn any_text_is_accepted_or_an_error(text in any::<String>()) {
        let _ = SchemaFile::parse("schema.json", &text);
    }

    #[test]
    fn any_damage_to_a_good_text_is_accepted_or_an_error(at in 0..EXAMPLE.len(), len in 0..20usize, with in ".{0,4}") {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..(at + len).min(EXAMPLE.len()), &with);
        let _ = SchemaFile::parse("schema.json", &text);
    }

    #[test]
    fn any_table_name_reads_back_from_its_key(schema in "[^\0]{1,8}", name in "[^\0]{1,8}") {
        let table = TableName { schema, name };
        prop_assert_eq!(table_name(&table_key(&table)).unwrap(), table);
    }
}
