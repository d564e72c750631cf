-- How far a standby has replayed; NULL on a primary. Asked before the chunk's transaction takes its snapshot, so that
-- the snapshot sees everything that ends at or before this position.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END AS replayed;
