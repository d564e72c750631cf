-- A mapped table is renamed: what comes behind that is left out.

CREATE TABLE table_renamed (id int PRIMARY KEY);

-- stream

INSERT INTO table_renamed VALUES (1);

ALTER TABLE table_renamed RENAME TO table_with_another_name;
INSERT INTO table_with_another_name VALUES (2);
