BEGIN IMMEDIATE;
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[1]', 'amount: numeric has a fraction and cannot be an INTEGER', 'lsn 1', xid 1);
INSERT INTO "rejected" ("id", "amount") VALUES (2, 10) ON CONFLICT ("id") DO UPDATE SET "amount" = excluded."amount";
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[3]', 'amount: numeric is NaN or infinite and cannot be an INTEGER', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[4]', 'amount: numeric is beyond 64 bits and cannot be an INTEGER', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'insert', '["0.5"]', 'id: numeric has a fraction and cannot be an INTEGER', 'lsn 1', xid 1);
INSERT INTO "rejected_key" ("id", "name") VALUES (1, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "rejected" ("id", "amount") VALUES (1, 7) ON CONFLICT ("id") DO UPDATE SET "amount" = excluded."amount";
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'update', '[2]', 'amount: numeric has a fraction and cannot be an INTEGER', 'lsn 3', xid 2);
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
DELETE FROM "rejected_key" WHERE "id" = 1;
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'update', '["1.5"]', 'id: numeric has a fraction and cannot be an INTEGER', 'lsn 5', xid 3);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'delete', '["0.5"]', 'id: numeric has a fraction and cannot be an INTEGER', 'lsn 5', xid 3);
INSERT INTO "rejected_key" ("id", "name") VALUES (2, 'one') ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- rejected: 1, 7
-- rejected: 2, 10
-- rejected_key: 2, "one"
-- _walcast_dead_letters: "rejected", "insert", "[1]", "amount: numeric has a fraction and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected", "insert", "[3]", "amount: numeric is NaN or infinite and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected", "insert", "[4]", "amount: numeric is beyond 64 bits and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected_key", "insert", "[\"0.5\"]", "id: numeric has a fraction and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected", "update", "[2]", "amount: numeric has a fraction and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected_key", "update", "[\"1.5\"]", "id: numeric has a fraction and cannot be an INTEGER"
-- _walcast_dead_letters: "rejected_key", "delete", "[\"0.5\"]", "id: numeric has a fraction and cannot be an INTEGER"
