-- Columns of types that are not built in: each is described by a Type message.

CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE DOMAIN work_email AS email;
CREATE DOMAIN big AS bigint;
CREATE TYPE point3 AS (x int, y float8, label text);
CREATE TABLE user_types (id big PRIMARY KEY, mood mood, moods mood[], email work_email, place point3);

-- stream

INSERT INTO user_types VALUES
    (9223372036854775807, 'sad', '{sad,NULL,"it''s \"ok\""}', 'a@b', (1, 0.1, 'a "b", (c)')),
    (-9223372036854775808, NULL, '{}', NULL, NULL);

UPDATE user_types SET mood = 'it''s "ok"' WHERE id < 0;
