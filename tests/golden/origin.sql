-- A session that replays transactions of another node says so; the transaction carries an Origin message.

CREATE TABLE origin (id int PRIMARY KEY);
SELECT pg_replication_origin_create('another node');

-- stream

INSERT INTO origin VALUES (1);

SELECT pg_replication_origin_session_setup('another node');

SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2024-02-29 12:00:00Z');
INSERT INTO origin VALUES (2);

SELECT pg_replication_origin_session_reset();

INSERT INTO origin VALUES (3);
