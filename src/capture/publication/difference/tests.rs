//! What is said and written for publications that lack something, and for those that do not.

use super::*;
use crate::capture::table::Oid;

const V14: ServerVersion = ServerVersion(140_000);
const V15: ServerVersion = ServerVersion(150_000);
const V18: ServerVersion = ServerVersion(180_000);

fn name(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn wanted(table: &str, columns: &[&str]) -> PublishedTable {
    PublishedTable {
        name: name(table),
        columns: strings(columns),
        may_have_column_list: true,
        is_partitioned: false,
        has_generated: false,
    }
}

fn member(table: &str, column_list: Option<&[&str]>, published: &[&str]) -> Member {
    Member {
        oid: Oid(1),
        name: name(table),
        is_named: true,
        column_list: column_list.map(strings),
        row_filter: None,
        published_columns: strings(published),
        replica_identity: ReplicaIdentity::Default,
        has_identity: true,
    }
}

fn publication(tables: Vec<Member>) -> Publication {
    Publication {
        name: "w".into(),
        owner: "me".into(),
        is_owned: true,
        all_tables: false,
        schemas: vec![],
        publishes_insert: true,
        publishes_update: true,
        publishes_delete: true,
        publishes_truncate: true,
        via_root: true,
        tables,
    }
}

#[test]
fn a_missing_publication_is_created_with_exactly_the_mapped_columns() {
    let full = PublishedTable { may_have_column_list: false, ..wanted("b", &["id", "x"]) };
    let difference = difference("w\"", None, &[wanted("a", &["id", "na\"me"]), full], V15);
    assert!(difference.is_ours);
    assert_eq!(
        difference.statements,
        [
            r#"CREATE PUBLICATION "w""" FOR TABLE ONLY "public"."a" ("id", "na""me"), ONLY "public"."b" WITH (publish_via_partition_root = true);"#
        ]
    );
}

#[test]
fn a_superset_is_accepted_and_reported() {
    let existing = publication(vec![
        member("a", None, &["id", "name", "more"]),
        member("other", Some(&["id"]), &["id"]),
    ]);
    let difference = difference("w", Some(&existing), &[wanted("a", &["id", "name"])], V15);
    assert_eq!(difference.reasons, [""; 0]);
    assert_eq!(difference.statements, [""; 0]);
    assert_eq!(difference.notes, ["it also publishes other, which walcast skips"]);
}

#[test]
fn widening_keeps_what_is_there() {
    let existing = publication(vec![
        member("a", Some(&["id", "old"]), &["id", "old"]),
        member("other", Some(&["id"]), &["id"]),
    ]);
    let wanted = [wanted("a", &["id", "new"]), wanted("b", &["id"])];
    let difference = difference("w", Some(&existing), &wanted, V15);
    assert!(difference.is_ours);
    assert_eq!(difference.reasons, ["it does not publish new of table a", "it does not publish table b"]);
    assert_eq!(
        difference.statements,
        [
            r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."a" ("id", "old", "new"), ONLY "public"."other" ("id"), ONLY "public"."b" ("id");"#
        ]
    );
}

#[test]
fn a_column_list_on_a_table_with_full_identity_is_taken_away() {
    let full =
        Member { replica_identity: ReplicaIdentity::Full, ..member("a", Some(&["id", "x"]), &["id", "x"]) };
    let wanted = PublishedTable { may_have_column_list: false, ..wanted("a", &["id", "x"]) };
    let difference = difference("w", Some(&publication(vec![full])), &[wanted], V15);
    assert!(difference.reasons[0].contains("the server rejects UPDATE and DELETE"));
    assert_eq!(difference.statements, [r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."a";"#]);
}

#[test]
fn generated_columns_are_named_where_columns_are_and_an_option_elsewhere() {
    let generated =
        |table: &str| PublishedTable { has_generated: true, ..wanted(table, &["id", "generated"]) };
    let full = |table: &str| PublishedTable { may_have_column_list: false, ..generated(table) };
    let option = r#"ALTER PUBLICATION "w" SET (publish_generated_columns = stored);"#;
    let create = |wanted| difference("w", None, &[wanted], V18).statements.remove(0);
    assert!(
        create(generated("a")).contains(r#"("id", "generated") WITH (publish_via_partition_root = true);"#)
    );
    assert!(create(full("a")).contains("publish_generated_columns = stored"));

    let listed = publication(vec![member("a", Some(&["id"]), &["id"])]);
    let named = r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."a" ("id", "generated");"#;
    let whole = publication(vec![member("a", None, &["id"])]);
    let all = Publication { all_tables: true, ..whole.clone() };
    let by_schema = Publication {
        schemas: strings(&["public"]),
        ..publication(vec![Member { is_named: false, ..member("a", None, &["id"]) }])
    };
    let both = r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."a", ONLY "public"."b";"#;
    let cases: [(&Publication, PublishedTable, &[&str]); 6] = [
        (&listed, generated("a"), &[named]),
        (&whole, generated("a"), &[option]),
        (&whole, full("a"), &[option]),
        (&whole, full("b"), &[option, both]),
        (&all, generated("a"), &[option]),
        (&by_schema, generated("a"), &[option]),
    ];
    for (existing, table, statements) in cases {
        let difference = difference("w", Some(existing), &[table], V18);
        assert_eq!(difference.statements, statements);
    }
}

#[test]
fn what_somebody_made_by_hand_is_left_to_them() {
    let filtered = Member { row_filter: Some("(id > 3)".into()), ..member("a", None, &["id"]) };
    let by_schema = Publication { schemas: strings(&["app"]), ..publication(vec![]) };
    let not_owned = Publication { is_owned: false, ..publication(vec![]) };
    let cases = [
        (
            publication(vec![filtered]),
            r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."a" WHERE ((id > 3)), ONLY "public"."b" ("id");"#,
        ),
        (by_schema, r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."b", TABLES IN SCHEMA "app";"#),
        (not_owned, r#"ALTER PUBLICATION "w" SET TABLE ONLY "public"."b" ("id");"#),
    ];
    for (existing, sql) in cases {
        let difference = difference("w", Some(&existing), &[wanted("b", &["id"])], V15);
        assert!(!difference.is_ours);
        assert_eq!(difference.statements, [sql]);
    }
}

#[test]
fn all_tables_need_no_list_but_may_need_the_root_and_the_operations() {
    let all =
        Publication { all_tables: true, via_root: false, publishes_delete: false, ..publication(vec![]) };
    let root = PublishedTable { is_partitioned: true, ..wanted("p", &["id"]) };
    let difference = difference("w", Some(&all), &[root], V14);
    assert_eq!(difference.reasons.len(), 2, "{:?}", difference.reasons);
    assert_eq!(
        difference.statements,
        [
            r#"ALTER PUBLICATION "w" SET (publish_via_partition_root = true, publish = 'insert, update, delete, truncate');"#
        ]
    );
}
