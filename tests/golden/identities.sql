-- Inserts, updates and deletes under each replica identity. A paragraph is one query, hence one transaction.

CREATE TABLE id_default (id bigint PRIMARY KEY, name text, amount int);
CREATE TABLE id_full (id bigint PRIMARY KEY, name text, amount int);
ALTER TABLE id_full REPLICA IDENTITY FULL;
CREATE TABLE id_index (id bigint PRIMARY KEY, code text NOT NULL, amount int);
CREATE UNIQUE INDEX id_index_code ON id_index (code);
ALTER TABLE id_index REPLICA IDENTITY USING INDEX id_index_code;
CREATE TABLE id_nothing (id bigint PRIMARY KEY, name text);
ALTER TABLE id_nothing REPLICA IDENTITY NOTHING;

-- stream

INSERT INTO id_default VALUES (1, 'one', 10), (2, NULL, 9), (3, '', -2147483648);
UPDATE id_default SET amount = amount + 1 WHERE id < 3;
DELETE FROM id_default WHERE id = 2;

INSERT INTO id_full VALUES (1, 'one', 10), (2, NULL, 9), (9007199254740993, 'ä"\', NULL);
UPDATE id_full SET name = 'changed' WHERE id = 2;
UPDATE id_full SET name = name;
DELETE FROM id_full WHERE id = 1;

INSERT INTO id_index VALUES (1, 'one', 10), (2, 'two', 20), (3, 'three', 30);
UPDATE id_index SET amount = 21 WHERE id = 2;
UPDATE id_index SET id = 20 WHERE id = 2;
DELETE FROM id_index WHERE id = 3;

-- Nothing maps this table; its inserts are published all the same.
INSERT INTO id_nothing VALUES (1, 'one');

-- fails: does not have a replica identity
UPDATE id_nothing SET name = 'two';

-- fails: does not have a replica identity
DELETE FROM id_nothing;
