-- Creates the slot. A template, and a command of the replication protocol: it needs a session in replication mode, as
-- psql "$DATABASE_URL replication=database" opens. On an ordinary session the same is
-- SELECT * FROM pg_create_logical_replication_slot('walcast', 'pgoutput').
-- {slot}: its name, [a-z0-9_]. {options}: that no snapshot is exported, as NOEXPORT_SNAPSHOT before 15 and
-- (SNAPSHOT 'nothing') from then on; from 17 with FAILOVER where it is to be synchronised to standbys.
--
-- It waits for every transaction that has written and is still open when it starts; slot_blockers.sql says which.
-- The publication must exist first: decoding of WAL from before it would stop with an error.
CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput {options};
