-- The rows of one chunk, in the order of the key's index. Between chunk_begin.sql and COMMIT.
-- {table}: as there; {where}: true, or the bounds and the operator's own condition; {rows}: how many at most.
COPY (
    SELECT {columns}
    FROM {table}
    WHERE {where}
    ORDER BY {order}
    LIMIT {rows}
) TO STDOUT;
