BEGIN IMMEDIATE;
INSERT INTO "id_default" ("id", "name", "amount") VALUES (1, 'one', 10) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
INSERT INTO "id_default" ("id", "name", "amount") VALUES (2, NULL, 9) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
INSERT INTO "id_default" ("id", "name", "amount") VALUES (3, '', -2147483648) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
INSERT INTO "id_default" ("id", "name", "amount") VALUES (1, 'one', 11) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
INSERT INTO "id_default" ("id", "name", "amount") VALUES (2, NULL, 10) ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
DELETE FROM "id_default" WHERE "id" = 2;
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (1, 'one', 10) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (2, NULL, 9) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (9007199254740993, 'ä"\', NULL) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (2, 'changed', 9) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (1, 'one', 10) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (9007199254740993, 'ä"\', NULL) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
INSERT INTO "full_rows" ("id", "label", "amount") VALUES (2, 'changed', 9) ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
DELETE FROM "full_rows" WHERE "id" = 1;
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "id_index" ("amount", "id", "code") VALUES (10, 1, 'one') ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
INSERT INTO "id_index" ("amount", "id", "code") VALUES (20, 2, 'two') ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
INSERT INTO "id_index" ("amount", "id", "code") VALUES (30, 3, 'three') ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
INSERT INTO "id_index" ("amount", "id", "code") VALUES (21, 2, 'two') ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
INSERT INTO "id_index" ("amount", "id", "code") VALUES (21, 20, 'two') ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
DELETE FROM "id_index" WHERE "code" = 'three';
UPDATE _walcast_checkpoint SET lsn = 'lsn 6', commit_time_micros = coalesce(time 3, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
UPDATE _walcast_checkpoint SET lsn = 'lsn 8', commit_time_micros = coalesce(time 4, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- id_default: 1, "one", 11
-- id_default: 3, "", -2147483648
-- full_rows: 2, "changed", 9
-- full_rows: 9007199254740993, "ä\"\\", NULL
-- id_index: 10, 1, "one"
-- id_index: 21, 20, "two"
