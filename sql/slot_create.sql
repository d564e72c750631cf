-- Creates the slot by hand, on an SQL connection. walcast itself sends CREATE_REPLICATION_SLOT on a replication
-- connection, which does the same and can be told not to export a snapshot.
-- {slot}: its name, [a-z0-9_], quoted as a literal. {options}: from 17 ", false, false, true" makes it a failover slot.
-- It waits for every transaction that is running when it starts (slot_blockers.sql says which).
-- The publication must exist first: decoding of WAL from before it would stop with an error.
SELECT * FROM pg_create_logical_replication_slot({slot}, 'pgoutput'{options});
