-- A deleted row stays, with the time of its deletion, until it comes again.

CREATE TABLE soft_delete (id int PRIMARY KEY, name text, body text);
ALTER TABLE soft_delete ALTER body SET STORAGE EXTERNAL;

-- stream

INSERT INTO soft_delete VALUES (1, 'one', repeat('a', 2100)), (2, 'two', NULL), (3, 'three', NULL);

DELETE FROM soft_delete WHERE id < 3;

INSERT INTO soft_delete VALUES (1, 'again', repeat('b', 2100));
UPDATE soft_delete SET name = 'partial' WHERE id = 1;
UPDATE soft_delete SET id = 33 WHERE id = 3;

TRUNCATE soft_delete;
