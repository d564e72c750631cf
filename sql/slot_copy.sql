-- Copies a logical slot, in use or not: the copy keeps the same WAL and starts at the same confirmed position, so that
-- one sink can read on from there at its own pace. It is not synchronised to standbys, whatever the original is.
-- $1: the slot. $2: the copy's name. By hand: put literals in their places, e.g. 'walcast' and 'walcast__eu'.
SELECT lsn FROM pg_copy_logical_replication_slot($1, $2, false);
