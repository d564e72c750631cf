BEGIN IMMEDIATE;
INSERT INTO "origin" ("id") VALUES (1) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "origin" ("id") VALUES (2) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "origin" ("id") VALUES (3) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- origin: 1
-- origin: 2
-- origin: 3
