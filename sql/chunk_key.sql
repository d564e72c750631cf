-- By which index a table's rows can be read in the order of its key, one row for each key column in that order.
-- $1: the table's OID. $2: the key's columns, text[]. By hand: put literals in their places, e.g.
-- 'public.orders'::regclass and ARRAY['tenant', 'id'].
--
-- No row: there is no such index. It must be a valid unique btree on exactly these columns, all of them NOT NULL (NULLs
-- are not unique, and no range finds them), over all rows, and sort as ORDER BY does: ascending, by the default
-- operator class and the column's own collation. A partition root's index is valid once every partition has it.
--
-- operator_schema is where the column's comparison operators are, if not on the search_path: an extension's type in a
-- schema of its own. Compared without them, its values would be taken for text and the index would not be used.
WITH wanted AS (
    SELECT c.oid, c.relkind
    FROM pg_class c
    WHERE c.oid = $1::oid
),
parts AS (
    SELECT
        i.indexrelid,
        i.indisprimary,
        part.position,
        a.attname::text AS name,
        a.atttypid,
        array_position($2::text[], a.attname::text) AS key_position,
        operators.schema AS operator_schema,
        a.attnotnull
            AND opc.opcdefault
            AND part.options = 0
            AND part.sorts_by = a.attcollation
            AND operators.are_plain AS is_usable
    FROM wanted w
    JOIN pg_index i ON i.indrelid = w.oid
    JOIN pg_class ic ON ic.oid = i.indexrelid
    JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
    CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[])
        WITH ORDINALITY AS part (attnum, class, sorts_by, options, position)
    JOIN pg_attribute a ON a.attrelid = w.oid AND a.attnum = part.attnum
    JOIN pg_opclass opc ON opc.oid = part.class
    CROSS JOIN LATERAL (
        SELECT
            bool_and(o.oprname = CASE ao.amopstrategy WHEN 5 THEN '>' ELSE '<=' END) AND count(*) = 2 AS are_plain,
            min(n.nspname) FILTER (WHERE NOT pg_operator_is_visible(o.oid))::text AS schema
        FROM pg_amop ao
        JOIN pg_operator o ON o.oid = ao.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        WHERE ao.amopfamily = opc.opcfamily
            AND ao.amoplefttype = opc.opcintype
            AND ao.amoprighttype = opc.opcintype
            AND ao.amopstrategy IN (2, 5)
    ) AS operators
    WHERE i.indisunique AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND i.indexprs IS NULL
        AND i.indnkeyatts = cardinality($2::text[])
        AND part.position <= i.indnkeyatts
),
best AS (
    SELECT indexrelid
    FROM parts
    GROUP BY indexrelid, indisprimary
    HAVING bool_and(is_usable) AND count(DISTINCT key_position) = cardinality($2::text[])
    -- The one in the key's own order, else the primary key, else the oldest.
    ORDER BY bool_and(key_position = position) DESC, indisprimary DESC, indexrelid
    LIMIT 1
)
SELECT
    parts.name,
    base.type,
    parts.operator_schema,
    (
        CASE w.relkind
            WHEN 'p' THEN (
                SELECT sum(pg_relation_size(leaf.relid))
                FROM pg_partition_tree(w.oid) AS leaf
                WHERE leaf.isleaf
            )
            ELSE pg_relation_size(w.oid)
        END / current_setting('block_size')::bigint
    )::bigint AS pages
FROM wanted w
CROSS JOIN best
JOIN parts ON parts.indexrelid = best.indexrelid
CROSS JOIN LATERAL (
    -- The type below all domains, always with its schema: no keyword, so no length is implied either.
    WITH RECURSIVE chain (oid, depth) AS (
        SELECT parts.atttypid, 0
        UNION ALL
        SELECT t.typbasetype, chain.depth + 1
        FROM chain
        JOIN pg_type t ON t.oid = chain.oid AND t.typtype = 'd'
    )
    SELECT format('%I.%I', n.nspname, t.typname) AS type
    FROM chain
    JOIN pg_type t ON t.oid = chain.oid
    JOIN pg_namespace n ON n.oid = t.typnamespace
    ORDER BY chain.depth DESC
    LIMIT 1
) AS base
ORDER BY parts.position;
