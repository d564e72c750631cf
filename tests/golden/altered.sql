-- A relation that is altered while it streams, in ways that its mapping survives.

CREATE TABLE altered (unused int, id int PRIMARY KEY, name varchar(20), count int);

-- stream

INSERT INTO altered VALUES (0, 1, 'one', 1);

ALTER TABLE altered ADD COLUMN later int DEFAULT 7;
UPDATE altered SET count = 2;

ALTER TABLE altered DROP COLUMN unused;
INSERT INTO altered VALUES (2, 'two', 2, NULL);

ALTER TABLE altered ALTER name TYPE text, ALTER count TYPE bigint;
INSERT INTO altered VALUES (3, 'longer than twenty characters', 9223372036854775807);

ALTER TABLE altered RENAME COLUMN later TO much_later;
ALTER TABLE altered REPLICA IDENTITY FULL;
UPDATE altered SET name = 'three' WHERE id = 3;

-- In one transaction with changes on both sides.
DELETE FROM altered WHERE id = 1;
ALTER TABLE altered DROP COLUMN much_later;
DELETE FROM altered WHERE id = 2;
