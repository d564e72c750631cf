//! The recorded streams in `tests/golden`: the bytes of a real server, with the catalog they belong to.

#![allow(dead_code, reason = "no test uses all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use walcast::capture::table::{Column, Oid, ReplicaIdentity, Table, TableName};
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;

/// Where the golden files are, also for the fuzz targets, which are a package of their own below this one.
pub fn path(file: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden =
        manifest.ancestors().map(|folder| folder.join("tests/golden")).find(|golden| golden.is_dir());
    golden.expect("tests/golden exists").join(file)
}

/// One recorded stream.
pub struct Recording {
    pub name: String,
    /// Backend messages, as they came from the socket.
    pub stream: Vec<u8>,
    pub plan: Arc<Plan>,
}

impl Recording {
    /// Reads `<name>.bin`, `<name>.tables.json` and `<inputs>.schema.json`.
    pub fn read(name: &str, inputs: &str) -> Recording {
        let schema = text(&format!("{inputs}.schema.json"));
        let tables = tables_from_json(&serde_json::from_str(&text(&format!("{name}.tables.json"))).unwrap());
        Recording {
            name: name.to_owned(),
            stream: fs::read(path(&format!("{name}.bin"))).unwrap(),
            plan: Arc::new(Plan::new(&SchemaFile::parse("schema.json", &schema).unwrap(), &tables).unwrap()),
        }
    }

    /// All of them, by name.
    pub fn all() -> Vec<Recording> {
        let mut names: Vec<String> = fs::read_dir(path(""))
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".bin")?.to_owned()))
            .collect();
        names.sort();
        assert!(names.len() > 10, "recordings are in tests/golden");
        names.iter().map(|name| Recording::read(name, inputs(name))).collect()
    }
}

/// The scenario's name as its `.sql` and `.schema.json` have it: one scenario may be recorded in several ways.
fn inputs(name: &str) -> &str {
    name.split_once("_in_").map_or(name, |(inputs, _)| inputs)
}

pub fn text(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("tests/golden/{file}: {error}"))
}

pub fn tables_to_json(tables: &[Table]) -> Value {
    let column = |column: &Column| {
        json!({
            "name": column.name,
            "type_oid": column.type_oid.0,
            "base_type_oid": column.base_type_oid.0,
            "element_type_oid": column.element_type_oid.map(|oid| oid.0),
            "type_name": column.type_name,
            "is_not_null": column.is_not_null,
            "is_generated": column.is_generated,
            "is_toastable": column.is_toastable,
        })
    };
    let table = |table: &Table| {
        json!({
            "oid": table.oid.0,
            "schema": table.name.schema,
            "name": table.name.name,
            "columns": table.columns.iter().map(column).collect::<Vec<_>>(),
            "primary_key": table.primary_key,
            "replica_identity": format!("{:?}", table.replica_identity),
            "identity_columns": table.identity_columns,
            "is_partitioned": table.is_partitioned,
        })
    };
    tables.iter().map(table).collect()
}

fn tables_from_json(tables: &Value) -> Vec<Table> {
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let strings = |value: &Value| value.as_array().unwrap().iter().map(string).collect();
    let oid = |value: &Value| Oid(value.as_u64().unwrap() as u32);
    let column = |column: &Value| Column {
        name: string(&column["name"]),
        type_oid: oid(&column["type_oid"]),
        base_type_oid: oid(&column["base_type_oid"]),
        element_type_oid: column["element_type_oid"].as_u64().map(|oid| Oid(oid as u32)),
        type_name: string(&column["type_name"]),
        is_not_null: column["is_not_null"] == true,
        is_generated: column["is_generated"] == true,
        // The recordings are from a server before 18.
        is_publishable: column["is_generated"] != true,
        is_toastable: column["is_toastable"] == true,
    };
    let table = |table: &Value| Table {
        oid: oid(&table["oid"]),
        name: TableName { schema: string(&table["schema"]), name: string(&table["name"]) },
        columns: table["columns"].as_array().unwrap().iter().map(column).collect(),
        primary_key: strings(&table["primary_key"]),
        is_key_deferrable: false,
        replica_identity: match table["replica_identity"].as_str().unwrap() {
            "Default" => ReplicaIdentity::Default,
            "Nothing" => ReplicaIdentity::Nothing,
            "Full" => ReplicaIdentity::Full,
            "Index" => ReplicaIdentity::Index,
            other => panic!("replica identity {other}"),
        },
        identity_columns: strings(&table["identity_columns"]),
        is_partitioned: table["is_partitioned"] == true,
        has_row_security: false,
        estimated_rows: -1,
    };
    tables.as_array().unwrap().iter().map(table).collect()
}
