BEGIN IMMEDIATE;
INSERT INTO "column_dropped" ("id", "name") VALUES (1, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- column_dropped: 1, "one"
