-- Which transactions may have written to a table, or to a partition of it, and have not ended.
-- $1: the table's OID. By hand: put it in its place.
SELECT DISTINCT l.virtualtransaction, l.pid
FROM pg_locks l
WHERE l.locktype = 'relation'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND (l.relation = $1::oid OR l.relation IN (SELECT relid::oid FROM pg_partition_tree($1::oid::regclass)))
    AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid();
