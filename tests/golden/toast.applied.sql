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
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('toast_default', 'update', '[100]', 'the row is not in this replica, and the update carries only a part of it (unchanged TOAST)', 'lsn 3', xid 2);
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
-- _walcast_dead_letters: "toast_default", "update", "[100]", "the row is not in this replica, and the update carries only a part of it (unchanged TOAST)"
