-- Keys that change, under each replica identity, also in circles within one transaction.

CREATE TABLE key_default (id bigint PRIMARY KEY, name text);
CREATE TABLE key_full (id bigint PRIMARY KEY, name text);
ALTER TABLE key_full REPLICA IDENTITY FULL;
CREATE TABLE key_composite (a int, b text, note text, PRIMARY KEY (b, a));
INSERT INTO key_composite VALUES (0, 'before the stream', 'old');

-- stream

INSERT INTO key_default VALUES (1, 'one'), (2, 'two');
INSERT INTO key_full VALUES (1, 'one'), (2, 'two');
INSERT INTO key_composite VALUES (1, 'x', 'first'), (2, 'x', NULL);

UPDATE key_default SET id = 11 WHERE id = 1;
UPDATE key_full SET id = 11, name = 'eleven' WHERE id = 1;
UPDATE key_composite SET b = 'y' WHERE a = 1;
UPDATE key_composite SET a = a + 100;

-- Two rows change places.
UPDATE key_default SET id = 0 WHERE id = 11;
UPDATE key_default SET id = 11 WHERE id = 2;
UPDATE key_default SET id = 2 WHERE id = 0;

-- A row leaves its key to a new one, and another is removed at its new key.
UPDATE key_default SET id = 3 WHERE id = 2;
INSERT INTO key_default VALUES (2, 'new');
UPDATE key_full SET id = 12 WHERE id = 2;
DELETE FROM key_full WHERE id = 12;
