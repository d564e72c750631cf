-- One publication: what it publishes, and whether walcast's role owns it.
-- $1: its name. By hand: put a literal in its place, e.g. 'walcast'.
--
-- schemas is filled for FOR TABLES IN SCHEMA, which exists from 15. It is read from pg_depend, so that the one statement
-- also runs on 14, where pg_publication_namespace does not exist.
SELECT
    p.oid,
    pg_get_userbyid(p.pubowner)::text AS owner,
    pg_has_role(p.pubowner, 'USAGE') AS is_owned,
    p.puballtables AS all_tables,
    p.pubinsert AS publishes_insert,
    p.pubupdate AS publishes_update,
    p.pubdelete AS publishes_delete,
    p.pubtruncate AS publishes_truncate,
    p.pubviaroot AS via_root,
    coalesce(to_jsonb(p) ->> 'pubgencols', 'n') AS publishes_generated,
    ARRAY(
        SELECT n.nspname::text
        FROM pg_depend member
        JOIN pg_depend namespace USING (classid, objid)
        JOIN pg_namespace n ON n.oid = namespace.refobjid
        WHERE member.classid = to_regclass('pg_catalog.pg_publication_namespace')
            AND member.refclassid = 'pg_publication'::regclass AND member.refobjid = p.oid
            AND namespace.refclassid = 'pg_namespace'::regclass
        ORDER BY n.nspname
    ) AS schemas
FROM pg_publication p
WHERE p.pubname = $1;
