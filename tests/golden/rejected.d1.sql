INSERT INTO "rejected" ("id", "amount") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "amount" = excluded."amount";
  -- [[2,10]]
INSERT INTO "rejected_key" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[1,"one"]]
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected","insert","[1]","amount: numeric has a fraction and cannot be an INTEGER","lsn 1",xid 1],["rejected","insert","[3]","amount: numeric is NaN or infinite and cannot be an INTEGER","lsn 1",xid 1],["rejected","insert","[4]","amount: numeric is beyond 64 bits and cannot be an INTEGER","lsn 1",xid 1],["rejected_key","insert","[\"0.5\"]","id: numeric has a fraction and cannot be an INTEGER","lsn 1",xid 1]]

INSERT INTO "rejected" ("id", "amount") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "amount" = excluded."amount";
  -- [[1,7]]
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected","update","[2]","amount: numeric has a fraction and cannot be an INTEGER","lsn 3",xid 2]]

DELETE FROM "rejected_key" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]
INSERT INTO "rejected_key" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[2,"one"]]
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected_key","update","[\"1.5\"]","id: numeric has a fraction and cannot be an INTEGER","lsn 5",xid 3],["rejected_key","delete","[\"0.5\"]","id: numeric has a fraction and cannot be an INTEGER","lsn 5",xid 3]]

