-- Cancels the backend that is still creating a slot; the half-made slot goes with it.
-- $1: the pid of walcast's own replication session. By hand: the active_pid that slot.sql shows for a slot without a
-- confirmed position; its role, or one with pg_signal_backend, may cancel it.
SELECT pg_cancel_backend($1);
