BEGIN IMMEDIATE;
INSERT INTO "toast_default" ("id", "title", "body") VALUES (1, 'one', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_default" ("id", "title", "body") VALUES (2, 'two', 'b{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_default" ("id", "title", "body") VALUES (3, NULL, NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (1, 'one', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (2, 'two', 'b{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (3, NULL, NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_key" ("code", "title") VALUES ('k{2100}', 'one') ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 100;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 1;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 2;
INSERT INTO "toast_default" ("id", "title", "body") VALUES (3, 'changed', NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (1, 'changed', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (2, 'changed', 'b{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (3, 'changed', NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_key" ("code", "title") VALUES ('k{2100}', 'changed') ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
ROLLBACK;
SELECT lsn, commit_time_micros, system_identifier, timeline, database, slot, epoch, transactions FROM _walcast_checkpoint;
BEGIN IMMEDIATE;
SELECT count(*) = 1 FROM _walcast_checkpoint WHERE epoch = 1;
INSERT INTO _walcast_fills (target, fill) VALUES ('toast_default', '{"key_columns":[],"ranges":[{"after":null,"up_to":null,"is_done":true}],"rows":0,"rows_estimated":0,"began":0,"filled_lsn":"0/0","seen_lsn":"0/0","owed":[{"key":["100"],"commit_lsn":"lsn 3","xid":727}],"clears":false,"is_left_empty":false}') ON CONFLICT (target) DO UPDATE SET fill = excluded.fill;
COMMIT;
BEGIN IMMEDIATE;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 100;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 1;
UPDATE "toast_default" SET "title" = 'changed' WHERE "id" = 2;
INSERT INTO "toast_default" ("id", "title", "body") VALUES (3, 'changed', NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (1, 'changed', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (2, 'changed', 'b{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (3, 'changed', NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_key" ("code", "title") VALUES ('k{2100}', 'changed') ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "toast_default" WHERE "id" = 11 AND EXISTS (SELECT 1 FROM "toast_default" WHERE "id" = 1);
UPDATE "toast_default" SET "id" = 11, "title" = 'changed' WHERE "id" = 1;
DELETE FROM "toast_full" WHERE "id" = 1;
INSERT INTO "toast_full" ("id", "title", "body") VALUES (11, 'changed', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "toast_default" ("id", "title", "body") VALUES (2, 'changed', 'c{2100}') ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
INSERT INTO "toast_full" ("id", "title", "body") VALUES (2, 'changed', NULL) ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
DELETE FROM "toast_key" WHERE "code" = 'k{2100}';
INSERT INTO "toast_key" ("code", "title") VALUES ('l{2100}', 'changed') ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- toast_default: 2, "changed", "c{2100}"
-- toast_default: 3, "changed", NULL
-- toast_default: 11, "changed", "a{2100}"
-- toast_full: 2, "changed", NULL
-- toast_full: 3, "changed", NULL
-- toast_full: 11, "changed", "a{2100}"
-- toast_key: "l{2100}", "changed"
