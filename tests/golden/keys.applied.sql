BEGIN IMMEDIATE;
INSERT INTO "key_default" ("id", "name") VALUES (1, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
INSERT INTO "key_default" ("id", "name") VALUES (2, 'two') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
INSERT INTO "key_full" ("id", "name") VALUES (1, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
INSERT INTO "key_full" ("id", "name") VALUES (2, 'two') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
INSERT INTO "key_composite" ("note", "a", "b") VALUES ('first', 1, 'x') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
INSERT INTO "key_composite" ("note", "a", "b") VALUES (NULL, 2, 'x') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "key_default" WHERE "id" = 1;
INSERT INTO "key_default" ("id", "name") VALUES (11, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_full" WHERE "id" = 1;
INSERT INTO "key_full" ("id", "name") VALUES (11, 'eleven') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_composite" WHERE "a" = 1 AND "b" = 'x';
INSERT INTO "key_composite" ("note", "a", "b") VALUES ('first', 1, 'y') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
DELETE FROM "key_composite" WHERE "a" = 0 AND "b" = 'before the stream';
INSERT INTO "key_composite" ("note", "a", "b") VALUES ('old', 100, 'before the stream') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
DELETE FROM "key_composite" WHERE "a" = 2 AND "b" = 'x';
INSERT INTO "key_composite" ("note", "a", "b") VALUES (NULL, 102, 'x') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
DELETE FROM "key_composite" WHERE "a" = 1 AND "b" = 'y';
INSERT INTO "key_composite" ("note", "a", "b") VALUES ('first', 101, 'y') ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "key_default" WHERE "id" = 11;
INSERT INTO "key_default" ("id", "name") VALUES (0, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_default" WHERE "id" = 2;
INSERT INTO "key_default" ("id", "name") VALUES (11, 'two') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_default" WHERE "id" = 0;
INSERT INTO "key_default" ("id", "name") VALUES (2, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "key_default" WHERE "id" = 2;
INSERT INTO "key_default" ("id", "name") VALUES (3, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
INSERT INTO "key_default" ("id", "name") VALUES (2, 'new') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_full" WHERE "id" = 2;
INSERT INTO "key_full" ("id", "name") VALUES (12, 'two') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
DELETE FROM "key_full" WHERE "id" = 12;
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- key_default: 2, "new"
-- key_default: 3, "one"
-- key_default: 11, "two"
-- key_full: 11, "eleven"
-- key_composite: "old", 100, "before the stream"
-- key_composite: "first", 101, "y"
-- key_composite: NULL, 102, "x"
