-- The catalog of the given tables: columns with the types below their domains, primary key, replica identity.
-- $1: the tables' OIDs, oid[]. By hand: put a literal in its place, e.g. ARRAY['public.orders'::regclass::oid].
--
-- Points that are easy to get wrong:
--   * A domain may stand on a domain, and on an array: the chain is followed to its end, for elements too.
--   * An array type is one that its element type names as its array; int2vector looks like one and is not. One whose
--     elements are set apart by anything but a comma (box: a semicolon) is left as text.
--   * A deferrable primary key is no replica identity, and neither is an index that is no longer valid: the server
--     then rejects UPDATE and DELETE of a published table, as it does with REPLICA IDENTITY NOTHING.
--   * A partition root has no rows of its own, so its estimate is the sum over its leaves.
--   * A column set to STORAGE PLAIN later may still hold values stored out of line before.
--   * Generated columns are published from 18 on, if they are STORED. There, a virtual one in a published table with
--     REPLICA IDENTITY FULL makes the server reject UPDATE and DELETE: FULL is no identity then.
WITH RECURSIVE wanted AS (
    SELECT c.*, n.nspname
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($1::oid[])
),
attributes AS (
    SELECT
        a.*,
        a.attgenerated = ''
            OR a.attgenerated = 's' AND current_setting('server_version_num')::int >= 180000 AS is_publishable
    FROM pg_attribute a
    JOIN wanted w ON w.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped
),
chain (declared, reached, depth) AS (
    SELECT DISTINCT start.oid, start.oid, 0
    FROM (
        SELECT atttypid AS oid FROM attributes
    ) AS start
    UNION ALL
    SELECT chain.declared, t.typbasetype, chain.depth + 1
    FROM chain
    JOIN pg_type t ON t.oid = chain.reached AND t.typtype = 'd'
),
base AS (
    SELECT DISTINCT ON (declared) declared, reached AS oid
    FROM chain
    ORDER BY declared, depth DESC
),
element AS (
    SELECT base.declared, e.oid AS reached, 0 AS depth
    FROM base
    JOIN pg_type b ON b.oid = base.oid
    JOIN pg_type e ON e.oid = b.typelem AND e.typarray = b.oid AND (e.typdelim = ',' OR e.oid = 'box'::regtype)
),
element_chain (declared, reached, depth) AS (
    SELECT declared, reached, depth FROM element
    UNION ALL
    SELECT element_chain.declared, t.typbasetype, element_chain.depth + 1
    FROM element_chain
    JOIN pg_type t ON t.oid = element_chain.reached AND t.typtype = 'd'
),
element_base AS (
    SELECT DISTINCT ON (declared) declared, reached AS oid
    FROM element_chain
    ORDER BY declared, depth DESC
),
columns AS (
    SELECT
        a.attrelid,
        json_agg(json_build_object(
            'name', a.attname,
            'type_oid', a.atttypid::bigint,
            'base_type_oid', base.oid::bigint,
            'element_type_oid', element_base.oid::bigint,
            'type_name', format_type(a.atttypid, a.atttypmod),
            'is_not_null', a.attnotnull,
            'is_generated', a.attgenerated <> '',
            'is_publishable', a.is_publishable,
            'is_toastable', a.attlen = -1 AND NOT (a.attstorage = 'p' AND t.typstorage = 'p')
        ) ORDER BY a.attnum)::text AS columns
    FROM attributes a
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN base ON base.declared = a.atttypid
    LEFT JOIN element_base ON element_base.declared = a.atttypid
    GROUP BY a.attrelid
)
SELECT
    w.oid,
    w.nspname::text AS schema,
    w.relname::text AS name,
    coalesce(columns.columns, '[]') AS columns,
    ARRAY(
        SELECT a.attname::text
        FROM pg_index i
        CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS part(attnum, position)
        JOIN attributes a ON a.attrelid = w.oid AND a.attnum = part.attnum
        WHERE i.indrelid = w.oid AND i.indisprimary AND part.position <= i.indnkeyatts
        ORDER BY part.position
    ) AS primary_key,
    coalesce((
        SELECT NOT i.indimmediate FROM pg_index i WHERE i.indrelid = w.oid AND i.indisprimary
    ), false) AS is_key_deferrable,
    w.relreplident::text AS replica_identity,
    CASE w.relreplident
        WHEN 'f' THEN ARRAY(
            SELECT a.attname::text FROM attributes a
            WHERE a.attrelid = w.oid
                AND a.is_publishable
                AND NOT EXISTS (SELECT FROM attributes v WHERE v.attrelid = w.oid AND v.attgenerated = 'v')
            ORDER BY a.attnum
        )
        ELSE ARRAY(
            SELECT a.attname::text
            FROM pg_index i
            CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS part(attnum, position)
            JOIN attributes a ON a.attrelid = w.oid AND a.attnum = part.attnum
            WHERE i.indrelid = w.oid
                AND i.indisvalid AND i.indimmediate
                AND CASE w.relreplident
                    WHEN 'd' THEN i.indisprimary
                    WHEN 'i' THEN i.indisreplident
                    ELSE false
                END
                AND part.position <= i.indnkeyatts
            ORDER BY a.attnum
        )
    END AS identity_columns,
    w.relkind = 'p' AS is_partitioned,
    w.relrowsecurity AS has_row_security,
    CASE w.relkind
        WHEN 'p' THEN coalesce((
            SELECT sum(leaf.reltuples) FILTER (WHERE leaf.reltuples >= 0)
            FROM pg_partition_tree(w.oid) AS part
            JOIN pg_class leaf ON leaf.oid = part.relid
            WHERE part.isleaf
        ), -1)
        ELSE w.reltuples
    END::bigint AS estimated_rows
FROM wanted w
LEFT JOIN columns ON columns.attrelid = w.oid
ORDER BY array_position($1::oid[], w.oid);
