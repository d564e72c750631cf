-- Replication slots: their state, and how much WAL each holds back.
-- $1: a slot's name, or NULL. $2: how names begin, or NULL. By hand: put literals in their places, e.g. 'walcast' and
-- 'walcast__', which is how the copies of slot walcast begin that single sinks read while they catch up.
--
-- Columns that only newer versions have are read through to_jsonb, so that one statement runs on 14 to 18:
-- conflicting (16), failover, synced, invalidation_reason and inactive_since (17).
SELECT
    s.slot_name::text AS name,
    s.plugin::text AS plugin,
    s.slot_type AS type,
    s.database::text AS database,
    s.temporary AS is_temporary,
    s.active_pid,
    s.restart_lsn,
    s.confirmed_flush_lsn,
    s.wal_status,
    s.safe_wal_size,
    coalesce((to_jsonb(s) ->> 'two_phase')::boolean, false) AS two_phase,
    coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover,
    coalesce((to_jsonb(s) ->> 'synced')::boolean, false) AS is_synced,
    coalesce((to_jsonb(s) ->> 'conflicting')::boolean, false) AS is_conflicting,
    to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason,
    extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::bigint AS inactive_s,
    position.lsn AS current_wal_lsn,
    pg_wal_lsn_diff(position.lsn, s.restart_lsn)::bigint AS retained_bytes
FROM pg_replication_slots s
CROSS JOIN LATERAL (
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn
) AS position
WHERE s.slot_name = $1 OR left(s.slot_name::text, length($2::text)) = $2::text
ORDER BY s.slot_name;
