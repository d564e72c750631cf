-- The btree indexes on plain columns of the given tables, without the primary keys: what a replica may want too.
-- $1: the tables' OIDs, oid[]. By hand: put a literal in its place, e.g. ARRAY['public.orders'::regclass::oid].
--
-- Left out: partial indexes, indexes on expressions, columns that an index only includes, and indexes that a failed
-- CREATE INDEX CONCURRENTLY left invalid.
SELECT
    i.indrelid AS table_oid,
    ARRAY(
        SELECT a.attname::text
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS part(attnum, position)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attnum
        WHERE part.position <= i.indnkeyatts
        ORDER BY part.position
    ) AS columns
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY ($1::oid[])
    AND m.amname = 'btree'
    AND i.indisvalid
    AND NOT i.indisprimary
    AND i.indpred IS NULL
    AND i.indexprs IS NULL
ORDER BY array_position($1::oid[], i.indrelid), c.relname;
