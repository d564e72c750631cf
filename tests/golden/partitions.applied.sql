BEGIN IMMEDIATE;
INSERT INTO "partitions" ("id", "day", "note") VALUES (1, '2024-02-29', 'one') ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
INSERT INTO "partitions" ("id", "day", "note") VALUES (2, '2025-06-01', 'two') ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
INSERT INTO "partitions" ("id", "day", "note") VALUES (3, '2025-07-01', 'three') ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "partitions" ("id", "day", "note") VALUES (2, '2025-06-01', 'changed') ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
DELETE FROM "partitions" WHERE "id" = 3 AND "day" = '2025-07-01';
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "partitions" WHERE "id" = 1 AND "day" = '2024-02-29';
INSERT INTO "partitions" ("id", "day", "note") VALUES (1, '2025-02-28', 'one') ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "partitions";
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "partitions" ("id", "day", "note") VALUES (4, '2024-12-31', NULL) ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
UPDATE _walcast_checkpoint SET lsn = 'lsn 10', commit_time_micros = coalesce(time 5, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- partitions: 4, "2024-12-31", NULL
