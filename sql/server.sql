-- The source server's version, identity, position and the settings that logical replication lives by.
-- No parameters. By hand: psql "$DATABASE_URL" -f sql/server.sql
--
-- Any role may run it. Settings that a version does not have come back NULL: idle_replication_slot_timeout is new
-- in 18. The timeline is read from the name of the current WAL file, because pg_control_checkpoint() still shows the
-- old timeline between a promotion and the first checkpoint after it.
SELECT
    current_setting('server_version_num')::int AS version_num,
    current_setting('server_version') AS version,
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    CASE
        WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
    END AS timeline,
    current_database()::text AS database,
    pg_is_in_recovery() AS is_in_recovery,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS current_wal_lsn,
    current_setting('wal_level') AS wal_level,
    current_setting('max_replication_slots')::int AS slots_max,
    (SELECT count(*) FROM pg_replication_slots)::int AS slots_used,
    current_setting('max_wal_senders')::int AS senders_max,
    (SELECT count(*) FROM pg_stat_replication)::int AS senders_used,
    (SELECT nullif(setting::bigint, -1) * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
        AS max_slot_wal_keep_bytes,
    (SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'wal_keep_size') AS wal_keep_bytes,
    (SELECT nullif(setting::bigint, 0) FROM pg_settings WHERE name = 'wal_sender_timeout') AS wal_sender_timeout_ms,
    nullif(extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::bigint, 0)
        AS idle_replication_slot_timeout_s,
    current_setting('server_encoding') AS server_encoding,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us;
