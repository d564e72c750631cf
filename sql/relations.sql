-- What each wanted name is at the source, in the order asked for: a table, a partition, a view, or nothing.
-- $1: schemas, $2: names, both text[] of the same length.
-- By hand: put literals in their place, e.g. ARRAY['public'] and ARRAY['orders'].
--
-- A row always comes back per name; oid is NULL where nothing of that name exists. kind is pg_class.relkind.
SELECT
    wanted.schema,
    wanted.name,
    c.oid,
    c.relkind::text AS kind,
    c.relpersistence::text AS persistence,
    c.relispartition AS is_partition,
    CASE WHEN c.relispartition THEN (
        SELECT quote_ident(rn.nspname) || '.' || quote_ident(r.relname)
        FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
        WHERE r.oid = pg_partition_root(c.oid)
    ) END AS partition_root
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(schema, name, position)
LEFT JOIN pg_namespace n ON n.nspname = wanted.schema
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
    AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
ORDER BY wanted.position;
