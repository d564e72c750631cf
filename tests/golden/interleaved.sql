-- Two sessions write at the same time: transactions come one behind the other, in the order of their commits. What
-- publishes nothing sends nothing.

CREATE TABLE interleaved (id int PRIMARY KEY, writer text);
CREATE UNLOGGED TABLE not_logged (id int);

-- stream

BEGIN;
INSERT INTO interleaved VALUES (1, 'a');

-- b:
BEGIN;
INSERT INTO interleaved VALUES (2, 'b');

INSERT INTO interleaved VALUES (3, 'a');
SAVEPOINT undone;
INSERT INTO interleaved VALUES (4, 'a, undone');
ROLLBACK TO undone;
SAVEPOINT kept;
INSERT INTO interleaved VALUES (5, 'a, kept');

-- b:
UPDATE interleaved SET writer = 'b again' WHERE id = 2;
COMMIT;

INSERT INTO not_logged VALUES (1);
CREATE TABLE created_meanwhile (id int PRIMARY KEY);
INSERT INTO interleaved VALUES (6, 'a');
COMMIT;

-- b:
BEGIN;
INSERT INTO interleaved VALUES (7, 'undone');
ROLLBACK;

INSERT INTO not_logged VALUES (2);

DELETE FROM interleaved WHERE id = 1;
