-- Drops walcast's publication. A template. {publication}: its name, quoted. Only its owner may run it.
-- Drop the slot first (slot_drop.sql): a slot that still decodes stops with an error without its publication.
DROP PUBLICATION IF EXISTS {publication};
