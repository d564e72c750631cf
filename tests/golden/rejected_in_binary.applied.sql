BEGIN IMMEDIATE;
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[1]', 'amount: the type is not read in binary', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[2]', 'amount: the type is not read in binary', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[3]', 'amount: the type is not read in binary', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'insert', '[4]', 'amount: the type is not read in binary', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'insert', '["\\x0001ffff000000011388"]', 'id: the type is not read in binary', 'lsn 1', xid 1);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'insert', '["\\x00010000000000010001"]', 'id: the type is not read in binary', 'lsn 1', xid 1);
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'update', '[1]', 'amount: the type is not read in binary', 'lsn 3', xid 2);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected', 'update', '[2]', 'amount: the type is not read in binary', 'lsn 3', xid 2);
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'update', '["\\x000200000000000100011388"]', 'id: the type is not read in binary', 'lsn 5', xid 3);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'delete', '["\\x0001ffff000000011388"]', 'id: the type is not read in binary', 'lsn 5', xid 3);
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('rejected_key', 'update', '["\\x00010000000000000002"]', 'id: the type is not read in binary', 'lsn 5', xid 3);
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- _walcast_dead_letters: "rejected", "insert", "[1]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected", "insert", "[2]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected", "insert", "[3]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected", "insert", "[4]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected_key", "insert", "[\"\\\\x0001ffff000000011388\"]", "id: the type is not read in binary"
-- _walcast_dead_letters: "rejected_key", "insert", "[\"\\\\x00010000000000010001\"]", "id: the type is not read in binary"
-- _walcast_dead_letters: "rejected", "update", "[1]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected", "update", "[2]", "amount: the type is not read in binary"
-- _walcast_dead_letters: "rejected_key", "update", "[\"\\\\x000200000000000100011388\"]", "id: the type is not read in binary"
-- _walcast_dead_letters: "rejected_key", "delete", "[\"\\\\x0001ffff000000011388\"]", "id: the type is not read in binary"
-- _walcast_dead_letters: "rejected_key", "update", "[\"\\\\x00010000000000000002\"]", "id: the type is not read in binary"
