-- The transactions that the creation of a logical slot waits for: every one that has written and is still open,
-- the oldest first, prepared ones too. No parameters. By hand: psql "$DATABASE_URL" -f sql/slot_blockers.sql
--
-- Query text is left out on purpose: it may hold row values. Without pg_read_all_stats the age and state of other
-- roles' backends are NULL; their pid, user and application are not. A prepared transaction has no pid: end it with
-- COMMIT PREPARED or ROLLBACK PREPARED and its gid.
SELECT
    a.pid,
    NULL::text AS gid,
    a.usename::text AS user_name,
    a.application_name AS application,
    a.state,
    extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS age_s
FROM pg_stat_activity a
WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
UNION ALL
SELECT
    NULL,
    p.gid,
    p.owner::text,
    NULL,
    'prepared',
    extract(epoch FROM clock_timestamp() - p.prepared)::bigint
FROM pg_prepared_xacts p
ORDER BY age_s DESC NULLS LAST, pid;
