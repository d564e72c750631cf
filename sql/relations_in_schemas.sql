-- The OIDs of all tables that can be replicated in the given schemas, by name.
-- $1: schemas, text[]; an empty array stands for every schema that is not the system's own.
-- By hand: put a literal in its place, e.g. ARRAY['public'].
--
-- Left out: system schemas, temporary and unlogged tables (neither is in the WAL), partitions (their root stands for
-- them), and tables that an extension owns.
SELECT c.oid
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
    AND c.relpersistence = 'p'
    AND NOT c.relispartition
    AND n.nspname <> 'information_schema'
    AND n.nspname NOT LIKE 'pg\_%'
    AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1::text[]))
    AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY n.nspname, c.relname;
