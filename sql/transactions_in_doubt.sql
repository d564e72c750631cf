-- Which transactions may have been delivered already without being visible yet: those that run, by the lock that
-- each holds on its own xid until it is visible, prepared ones too. One that waits for its client has not written its
-- commit record, so it was not delivered. (Whose state this role may not see counts as running.)
-- The LSN is read first: what was delivered before ends at or before it.
WITH position AS MATERIALIZED (
    SELECT pg_current_wal_insert_lsn() AS wal_lsn
)
SELECT
    position.wal_lsn,
    ARRAY(
        SELECT DISTINCT l.transactionid::text::bigint
        FROM pg_locks l
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
            AND a.state IS DISTINCT FROM 'idle in transaction'
            AND a.state IS DISTINCT FROM 'idle in transaction (aborted)'
    ) AS xids
FROM position;
