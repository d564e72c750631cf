-- Where the WAL is not flushed up to a position yet ($1), writes a message into it and waits until that is flushed; so
-- also everything before it. Not until a synchronous standby has it.
SELECT pg_logical_emit_message(true, 'walcast', ''::text) AS lsn
FROM set_config('synchronous_commit', 'local', true)
WHERE pg_current_wal_flush_lsn() < $1::text::pg_lsn;
