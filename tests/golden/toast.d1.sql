INSERT INTO "toast_default" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[1,"one","a{2100}"],[2,"two","b{2100}"],[3,null,null]]
INSERT INTO "toast_full" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[1,"one","a{2100}"],[2,"two","b{2100}"],[3,null,null]]
INSERT INTO "toast_key" ("code", "title") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
  -- [["k{2100}","one"]]

INSERT INTO "toast_default" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[3,"changed",null]]
INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT 'toast_default', 'update', _walcast.value -> 0, 'the row is not in this replica, and the update carries only a part of it (unchanged TOAST)', _walcast.value ->> 1, _walcast.value ->> 2 FROM json_each(?1) AS _walcast WHERE NOT EXISTS (SELECT 1 FROM "toast_default" WHERE "toast_default"."id" = _walcast.value ->> '$[0][0]') RETURNING key;
  -- [[[100],"lsn 3",xid 2],[[1],"lsn 3",xid 2],[[2],"lsn 3",xid 2]]
UPDATE "toast_default" SET "title" = _walcast.value ->> 1 FROM json_each(?1) AS _walcast WHERE "toast_default"."id" = _walcast.value ->> 0;
  -- [[100,"changed",null],[1,"changed",null],[2,"changed",null]]
INSERT INTO "toast_full" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[1,"changed","a{2100}"],[2,"changed","b{2100}"],[3,"changed",null]]
INSERT INTO "toast_key" ("code", "title") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
  -- [["k{2100}","changed"]]

INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT 'toast_default', 'update', _walcast.value -> 0, 'the row is not in this replica, and the update carries only a part of it (unchanged TOAST)', _walcast.value ->> 1, _walcast.value ->> 2 FROM json_each(?1) AS _walcast WHERE NOT EXISTS (SELECT 1 FROM "toast_default" WHERE "toast_default"."id" = _walcast.value ->> '$[0][0]') RETURNING key;
  -- [[[1],"lsn 5",xid 3]]
UPDATE "toast_default" SET "id" = _walcast.value ->> '$[1][0]', "title" = _walcast.value ->> '$[1][1]' FROM json_each(?1) AS _walcast WHERE "toast_default"."id" = _walcast.value ->> '$[0][0]';
  -- [[[1],[11,"changed",null]]]
DELETE FROM "toast_full" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]
INSERT INTO "toast_full" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[11,"changed","a{2100}"]]

INSERT INTO "toast_default" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[2,"changed","c{2100}"]]
INSERT INTO "toast_full" ("id", "title", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "title" = excluded."title", "body" = excluded."body";
  -- [[2,"changed",null]]
DELETE FROM "toast_key" WHERE "code" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [["k{2100}"]]
INSERT INTO "toast_key" ("code", "title") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("code") DO UPDATE SET "title" = excluded."title";
  -- [["l{2100}","changed"]]

