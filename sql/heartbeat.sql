-- A transaction of its own that writes nothing but a message into the WAL, and where that lies.
SELECT pg_logical_emit_message(true, 'walcast', ''::text) AS lsn;
