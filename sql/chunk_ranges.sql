-- Keys that cut a table into {ranges} ranges of about the same size, one row less than that, in order. From a sample of
-- whole pages, not from pg_stats: that has no bounds for a composite key, nothing where few values of the first
-- column are all there is, and nothing before the first ANALYZE.
-- {columns}: the key's columns, named k1, k2, …; {order}: the same columns; {names}: k1, k2, …
SELECT {names}
FROM (
    SELECT {columns}, row_number() OVER (ORDER BY {order}) AS place, count(*) OVER () AS total
    FROM {table} TABLESAMPLE SYSTEM ({percent})
) AS sample
WHERE place < total AND place * {ranges} / total <> (place - 1) * {ranges} / total
ORDER BY place;
