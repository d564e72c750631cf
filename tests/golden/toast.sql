-- Values out of line that an update leaves alone are not sent again.

CREATE TABLE toast_default (id bigint PRIMARY KEY, title text, body text);
ALTER TABLE toast_default ALTER body SET STORAGE EXTERNAL;
CREATE TABLE toast_full (id bigint PRIMARY KEY, title text, body text);
ALTER TABLE toast_full ALTER body SET STORAGE EXTERNAL;
ALTER TABLE toast_full REPLICA IDENTITY FULL;
CREATE TABLE toast_key (code text PRIMARY KEY, title text);
ALTER TABLE toast_key ALTER code SET STORAGE EXTERNAL;
INSERT INTO toast_default VALUES (100, 'before the stream', repeat('o', 2100));

-- stream

INSERT INTO toast_default VALUES (1, 'one', repeat('a', 2100)), (2, 'two', repeat('b', 2100)), (3, NULL, NULL);
INSERT INTO toast_full VALUES (1, 'one', repeat('a', 2100)), (2, 'two', repeat('b', 2100)), (3, NULL, NULL);
INSERT INTO toast_key VALUES (repeat('k', 2100), 'one');

UPDATE toast_default SET title = 'changed';
UPDATE toast_full SET title = 'changed';
UPDATE toast_key SET title = 'changed';

-- With a new key.
UPDATE toast_default SET id = 11 WHERE id = 1;
UPDATE toast_full SET id = 11 WHERE id = 1;

-- The value itself changes.
UPDATE toast_default SET body = repeat('c', 2100) WHERE id = 2;
UPDATE toast_full SET body = NULL WHERE id = 2;
UPDATE toast_key SET code = repeat('l', 2100);
