-- Cancels the backend that is still creating a slot; the half-made slot goes with it.
-- $1: the slot's name. By hand: put a literal in its place, e.g. 'walcast'.
-- Only a slot without a confirmed position is being created, so a slot in use is never touched.
SELECT pg_cancel_backend(active_pid)
FROM pg_replication_slots
WHERE slot_name = $1 AND confirmed_flush_lsn IS NULL AND active_pid IS NOT NULL;
