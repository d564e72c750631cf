-- Drops a replication slot, so that the server may recycle the WAL it held back. There is no way back: every sink
-- that was fed by it needs a backfill afterwards. Fails while the slot is in use.
-- $1: the slot's name. By hand: put a literal in its place, e.g. 'walcast'.
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1;
