BEGIN IMMEDIATE;
INSERT INTO "interleaved" ("id", "writer") VALUES (2, 'b') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
INSERT INTO "interleaved" ("id", "writer") VALUES (2, 'b again') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "interleaved" ("id", "writer") VALUES (1, 'a') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
INSERT INTO "interleaved" ("id", "writer") VALUES (3, 'a') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
INSERT INTO "interleaved" ("id", "writer") VALUES (5, 'a, kept') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
INSERT INTO "interleaved" ("id", "writer") VALUES (6, 'a') ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "interleaved" WHERE "id" = 1;
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- interleaved: 2, "b again"
-- interleaved: 3, "a"
-- interleaved: 5, "a, kept"
-- interleaved: 6, "a"
