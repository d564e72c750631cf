BEGIN IMMEDIATE;
INSERT INTO "trunc_parent" ("id") VALUES (1) ON CONFLICT ("id") DO NOTHING;
INSERT INTO "trunc_parent" ("id") VALUES (2) ON CONFLICT ("id") DO NOTHING;
INSERT INTO "trunc_child" ("id", "parent") VALUES (10, 1) ON CONFLICT ("id") DO UPDATE SET "parent" = excluded."parent";
INSERT INTO "trunc_kept" ("id") VALUES (1) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "trunc_parent" ("id") VALUES (3) ON CONFLICT ("id") DO NOTHING;
DELETE FROM "trunc_parent";
DELETE FROM "trunc_child";
INSERT INTO "trunc_parent" ("id") VALUES (4) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "trunc_kept";
INSERT INTO "trunc_kept" ("id") VALUES (1) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- trunc_parent: 4
-- trunc_kept: 1
