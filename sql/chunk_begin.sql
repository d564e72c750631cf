-- Opens the transaction of one chunk and says what it sees. {table}: the table's name, quoted, with ONLY unless it is a
-- partition root; {literal}: its name as a string; {limit_ms}: how long a lock and each statement may take;
-- {search_path}: nothing, or what the key's operators need on it.
--
--   * The lock is the one that SELECT takes, but taken before the snapshot. A TRUNCATE, or an ALTER TABLE that writes
--     the table anew, in between the two would show the snapshot an empty table.
--   * With row security the rows of others would be missing without a word; switched off, the server says so instead.
--   * The planner must not sort the table because it thinks a chunk of it large, so that every chunk costs its rows.
--   * LSN and snapshot: every commit that the snapshot sees ends at or before the LSN, which is read after it. On a
--     standby it is NULL; the primary says it there.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL lock_timeout = {limit_ms};
SET LOCAL statement_timeout = {limit_ms};
SET LOCAL idle_in_transaction_session_timeout = {limit_ms};
SET LOCAL row_security = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;
LOCK TABLE {table} IN ACCESS SHARE MODE;
{search_path}
SELECT
    pg_current_snapshot()::text AS snapshot,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END AS wal_lsn,
    to_regclass({literal})::oid AS oid,
    pg_backend_pid() AS pid;
