-- A mapped column is dropped: everything before it is applied, and what comes behind it left out.

CREATE TABLE column_dropped (id int PRIMARY KEY, name text);

-- stream

INSERT INTO column_dropped VALUES (1, 'one');

ALTER TABLE column_dropped DROP COLUMN name;
INSERT INTO column_dropped VALUES (2);
