BEGIN IMMEDIATE;
INSERT INTO "logical_messages" ("id") VALUES (1) ON CONFLICT ("id") DO NOTHING;
INSERT INTO "logical_messages" ("id") VALUES (2) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "logical_messages" ("id") VALUES (3) ON CONFLICT ("id") DO NOTHING;
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- logical_messages: 1
-- logical_messages: 2
-- logical_messages: 3
