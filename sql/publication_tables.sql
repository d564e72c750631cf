-- The tables that one publication publishes, each with what of it is published.
-- $1: the publication's name. By hand: put a literal in its place, e.g. 'walcast'.
--
-- is_named: the table is a member by its own name, not through FOR ALL TABLES or a schema.
-- column_list: the columns the publication names (from 15), NULL where it names none and so publishes all.
-- row_filter: its WHERE expression (from 15); '...' where there is one that the view does not show, as for a partition
-- root in a publication without publish_via_partition_root. Columns are computed here and not taken from pg_publication_tables,
-- which on 15 also counts generated columns that are never sent.
-- has_identity: whether the server takes UPDATE and DELETE. From 18 on, not where REPLICA IDENTITY FULL would have to
-- send generated columns that are not published.
WITH publication AS (
    SELECT p.oid, p.pubname, coalesce(to_jsonb(p) ->> 'pubgencols', 'n') AS generated
    FROM pg_publication p
    WHERE p.pubname = $1
),
named AS (
    SELECT
        pr.prrelid AS relid,
        nullif(regexp_replace(to_jsonb(pr) ->> 'prattrs', '[^0-9 ,]', '', 'g'), '') AS attnums,
        to_jsonb(pr) ->> 'prqual' IS NOT NULL AS has_filter
    FROM pg_publication_rel pr
    JOIN publication ON publication.oid = pr.prpubid
),
shown AS (
    SELECT c.oid AS relid, to_jsonb(pt) ->> 'rowfilter' AS row_filter
    FROM publication
    JOIN pg_publication_tables pt ON pt.pubname = publication.pubname
    JOIN pg_namespace n ON n.nspname = pt.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = pt.tablename
),
member AS (
    SELECT relid FROM named UNION SELECT relid FROM shown
)
SELECT
    c.oid,
    n.nspname::text AS schema,
    c.relname::text AS name,
    named.relid IS NOT NULL AS is_named,
    coalesce(shown.row_filter, CASE WHEN named.has_filter THEN '...' END) AS row_filter,
    CASE WHEN named.attnums IS NOT NULL THEN ARRAY(
        SELECT a.attname::text
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum = ANY (regexp_split_to_array(named.attnums, '[ ,]+')::int2[])
        ORDER BY a.attnum
    ) END AS column_list,
    ARRAY(
        SELECT a.attname::text
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND CASE
                WHEN named.attnums IS NOT NULL
                    THEN a.attnum = ANY (regexp_split_to_array(named.attnums, '[ ,]+')::int2[])
                ELSE a.attgenerated = '' OR a.attgenerated = publication.generated
            END
        ORDER BY a.attnum
    ) AS published_columns,
    c.relreplident::text AS replica_identity,
    c.relkind = 'p' AS is_partitioned,
    c.relreplident = 'f'
        AND (
            current_setting('server_version_num')::int < 180000
            OR NOT EXISTS (
                SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.attgenerated NOT IN ('', publication.generated)
            )
        )
        OR EXISTS (
            SELECT FROM pg_index i
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
        ) AS has_identity
FROM member
JOIN pg_class c ON c.oid = member.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN publication
LEFT JOIN named ON named.relid = member.relid
LEFT JOIN shown ON shown.relid = member.relid
ORDER BY n.nspname, c.relname;
