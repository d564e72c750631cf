BEGIN IMMEDIATE;
INSERT INTO "altered" ("id", "name", "count") VALUES (1, 'one', 1) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "altered" ("id", "name", "count") VALUES (1, 'one', 2) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "altered" ("id", "name", "count") VALUES (2, 'two', 2) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "altered" ("id", "name", "count") VALUES (3, 'longer than twenty characters', 9223372036854775807) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "altered" ("id", "name", "count") VALUES (3, 'three', 9223372036854775807) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
UPDATE _walcast_checkpoint SET lsn = 'lsn 10', commit_time_micros = coalesce(time 5, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "altered" WHERE "id" = 1;
DELETE FROM "altered" WHERE "id" = 2;
UPDATE _walcast_checkpoint SET lsn = 'lsn 12', commit_time_micros = coalesce(time 6, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- altered: 3, "three", 9223372036854775807
