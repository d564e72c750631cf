INSERT INTO "key_default" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[1,"one"],[2,"two"]]
INSERT INTO "key_full" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[1,"one"],[2,"two"]]
INSERT INTO "key_composite" ("note", "a", "b") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
  -- [["first",1,"x"],[null,2,"x"]]

DELETE FROM "key_default" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]
INSERT INTO "key_default" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[11,"one"]]
DELETE FROM "key_full" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]
INSERT INTO "key_full" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[11,"eleven"]]
DELETE FROM "key_composite" WHERE ("a", "b") IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1));
  -- [[1,"x"],[1,"y"],[0,"before the stream"],[2,"x"]]
INSERT INTO "key_composite" ("note", "a", "b") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("a", "b") DO UPDATE SET "note" = excluded."note";
  -- [["old",100,"before the stream"],[null,102,"x"],["first",101,"y"]]

DELETE FROM "key_default" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[0]]
INSERT INTO "key_default" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[11,"two"],[2,"one"]]

INSERT INTO "key_default" ("id", "name") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name";
  -- [[2,"new"],[3,"one"]]
DELETE FROM "key_full" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[2],[12]]

