-- The rows of one table that a publication publishes, as a condition: its WHERE expression (from 15), or NULL for all.
-- $1: the publication's name. $2: the table's schema. $3: its name. By hand: put literals in their places.
SELECT to_jsonb(pt) ->> 'rowfilter' AS row_filter
FROM pg_publication_tables pt
WHERE pt.pubname = $1 AND pt.schemaname = $2 AND pt.tablename = $3;
