-- What walcast's role may do with the given tables, and what would make the application's own writes fail.
-- $1: the tables' OIDs, oid[]. By hand: put a literal in its place, e.g. ARRAY['public.orders'::regclass::oid];
-- run it as walcast's role, or after SET ROLE walcast.
--
-- is_row_security_active is the server's own answer for this role: it knows of owners, FORCE and BYPASSRLS.
-- For UPDATE and DELETE the replica identity of the *leaf* counts, and ALTER TABLE on a partition root does not reach
-- its partitions; odd_partitions lists the leaves whose setting differs from the root's.
SELECT
    c.oid,
    has_schema_privilege(c.relnamespace, 'USAGE') AS can_use_schema,
    has_table_privilege(c.oid, 'SELECT') AS can_select,
    ARRAY(
        SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
        ORDER BY a.attnum
    ) AS unreadable_columns,
    pg_has_role(c.relowner, 'USAGE') AS is_owned,
    row_security_active(c.oid) AS is_row_security_active,
    c.relpersistence = 'p' AS is_logged,
    ARRAY(
        SELECT quote_ident(ln.nspname) || '.' || quote_ident(leaf.relname)
        FROM pg_partition_tree(c.oid) AS part
        JOIN pg_class leaf ON leaf.oid = part.relid
        JOIN pg_namespace ln ON ln.oid = leaf.relnamespace
        WHERE c.relkind = 'p' AND part.isleaf AND leaf.relreplident <> c.relreplident
        ORDER BY 1
    ) AS odd_partitions
FROM pg_class c
WHERE c.oid = ANY ($1::oid[])
ORDER BY array_position($1::oid[], c.oid);
