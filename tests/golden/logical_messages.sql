-- pg_logical_emit_message, inside and outside transactions. They mean nothing to a replica.

CREATE TABLE logical_messages (id int PRIMARY KEY);

-- stream

SELECT pg_logical_emit_message(false, 'outside', 'by itself');

INSERT INTO logical_messages VALUES (1);
SELECT pg_logical_emit_message(true, 'inside', '\x00ff01'::bytea);
SELECT pg_logical_emit_message(false, 'outside', 'sent before the transaction that wrote it');
INSERT INTO logical_messages VALUES (2);

-- A transaction that holds nothing else.
SELECT pg_logical_emit_message(true, '', '');

INSERT INTO logical_messages VALUES (3);
