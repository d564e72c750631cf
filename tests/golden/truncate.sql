-- One TRUNCATE of many tables, some by CASCADE, one of them not mapped.

CREATE TABLE trunc_parent (id int PRIMARY KEY);
CREATE TABLE trunc_child (id int PRIMARY KEY, parent int REFERENCES trunc_parent);
CREATE TABLE trunc_unmapped (id int PRIMARY KEY);
CREATE TABLE trunc_kept (id serial PRIMARY KEY);

-- stream

INSERT INTO trunc_parent VALUES (1), (2);
INSERT INTO trunc_child VALUES (10, 1);
INSERT INTO trunc_unmapped VALUES (1);
INSERT INTO trunc_kept DEFAULT VALUES;

INSERT INTO trunc_parent VALUES (3);
TRUNCATE trunc_unmapped, trunc_parent CASCADE;
INSERT INTO trunc_parent VALUES (4);

TRUNCATE trunc_kept RESTART IDENTITY;
INSERT INTO trunc_kept DEFAULT VALUES;

TRUNCATE ONLY trunc_unmapped;
