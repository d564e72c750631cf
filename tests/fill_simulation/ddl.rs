//! What becomes of the table at the source, and what the catalog says of it.

use std::sync::Arc;

use walcast::capture::table::ReplicaIdentity;
use walcast::encode::plan::{Plan, PlannedTable};
use walcast::encode::schema_file::SchemaFile;
use walcast::error::Result;

use super::snapshots::{FITS, Form, ITEMS, OTHER_IDS, OTHERS, Source};
use super::wire;

impl Source {
    /// Another table beside the one that is altered, which has no part in that.
    pub fn with_others(mut self) -> Source {
        self.has_others = true;
        for id in OTHER_IDS {
            self.visible.insert(id, ["other".to_owned(), format!("from before {id}")]);
        }
        self
    }

    /// Somebody alters the table, drops it or makes it anew. `publishes_all`: whatever there is is published.
    pub fn alter(&mut self, publishes_all: bool) {
        let now = self.form;
        let anew = Form { oid: now.oid + 1, is_published: publishes_all, ..FITS };
        let form = match self.rng.u32(..6) {
            _ if !now.is_there => anew,
            _ if !is_fit(now) => Form { oid: now.oid, is_published: now.is_published, ..FITS },
            0 => Form { note: ("remark", 25), ..now },
            1 => Form { note: ("note", 17), ..now },
            2 => Form { name: "things", ..now },
            // In one transaction.
            3 => anew,
            _ => Form { is_there: false, is_published: false, ..now },
        };
        // It waits for whoever has a lock on the table, and nobody else gets one meanwhile.
        while !self.limbo.is_empty() {
            self.show();
        }
        self.commit(Some(form));
    }

    /// Puts back what fits.
    pub fn put_back(&mut self, publishes_all: bool) {
        if !is_fit(self.form) {
            self.alter(publishes_all);
        }
    }

    /// Publishes the table. Whoever has written to it before goes on unpublished. False while it is locked.
    pub fn publish(&mut self) -> bool {
        if self.is_locked() {
            return false;
        }
        (self.form.is_published, self.visible_form.is_published) = (true, true);
        let open: Vec<u64> = self.running.iter().copied().collect();
        self.early.extend(open.into_iter().filter(|_| self.rng.bool()));
        true
    }
}

/// Whether a table that `schema.json` means is there as it says.
pub fn is_fit(form: Form) -> bool {
    form.is_there && form.name == FITS.name && form.note == FITS.note
}

/// The plan for a source whose table is that. Ids are text in the replicas, or integers.
pub fn plan(is_text: bool, form: Form) -> Arc<Plan> {
    Arc::new(Plan::draw_all(&schema(is_text), &tables(form)))
}

/// The table as it is to be read now.
pub fn found(is_text: bool, form: Form) -> Result<PlannedTable> {
    Ok(Plan::new(&schema(is_text), &tables(form))?.tables.swap_remove(0))
}

fn schema(is_text: bool) -> SchemaFile {
    let id = if is_text { "TEXT" } else { "INTEGER" };
    let table = |name: &str, id: &str| {
        let columns = format!(r#"{{ "id": "{id}", "name": "TEXT", "note": "TEXT" }}"#);
        format!(r#""{name}": {{ "primaryKey": "id", "columns": {columns} }}"#)
    };
    let schema = format!("{{ {}, {} }}", table("items", id), table("others", "INTEGER"));
    SchemaFile::parse("schema.json", &schema).unwrap()
}

fn tables(form: Form) -> Vec<walcast::capture::table::Table> {
    let table = |oid, name, note| {
        wire::table(oid, name, &[("id", 20), ("name", 25), note], &["id"], ReplicaIdentity::Default)
    };
    let others = table(OTHERS, "others", FITS.note);
    let items = form.is_there.then(|| table(form.oid, form.name, form.note));
    items.into_iter().chain([others]).collect()
}

const _: () = assert!(FITS.oid == ITEMS);
