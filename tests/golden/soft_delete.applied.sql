BEGIN IMMEDIATE;
INSERT INTO "soft_delete" ("id", "name", "body") VALUES (1, 'one', 'a{2100}') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
INSERT INTO "soft_delete" ("id", "name", "body") VALUES (2, 'two', NULL) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
INSERT INTO "soft_delete" ("id", "name", "body") VALUES (3, 'three', NULL) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE "soft_delete" SET "deleted_at" = 'time 2' WHERE "id" = 1 AND "deleted_at" IS NULL;
UPDATE "soft_delete" SET "deleted_at" = 'time 2' WHERE "id" = 2 AND "deleted_at" IS NULL;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "soft_delete" ("id", "name", "body") VALUES (1, 'again', 'b{2100}') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
UPDATE "soft_delete" SET "name" = 'partial', "deleted_at" = NULL WHERE "id" = 1;
DELETE FROM "soft_delete" WHERE "id" = 3;
INSERT INTO "soft_delete" ("id", "name", "body") VALUES (33, 'three', NULL) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE "soft_delete" SET "deleted_at" = 'time 4' WHERE "deleted_at" IS NULL;
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- soft_delete: 1, "partial", "b{2100}", 1
-- soft_delete: 2, "two", NULL, 1
-- soft_delete: 33, "three", NULL, 1
