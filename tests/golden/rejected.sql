-- Values without a form at the sink: the row is set aside with its reason, the transaction goes on.

CREATE TABLE rejected (id bigint PRIMARY KEY, amount numeric);
CREATE TABLE rejected_key (id numeric PRIMARY KEY, name text);

-- stream

INSERT INTO rejected VALUES (1, 1.50), (2, 10.000), (3, 'NaN'), (4, 9223372036854775808);
INSERT INTO rejected_key VALUES (0.5, 'no integer'), (1.0, 'one');

UPDATE rejected SET amount = 7 WHERE id = 1;
UPDATE rejected SET amount = 0.1 WHERE id = 2;

-- The old key leaves the replica although its successor has no form.
UPDATE rejected_key SET id = 1.5 WHERE id = 1;
DELETE FROM rejected_key WHERE id = 0.5;
UPDATE rejected_key SET id = 2 WHERE id = 1.5;
