-- The rows that have these keys, as far as they are there. Between chunk_begin.sql and COMMIT. {table}: as there;
-- {key}: the key's columns; {keys}: their values, a list of rows of typed literals; {where}: true, or the operator's own
-- condition. Without an order, each key is one look into its index.
COPY (
    SELECT {columns}
    FROM {table}
    WHERE ({key}) IN (VALUES {keys}) AND {where}
) TO STDOUT;
