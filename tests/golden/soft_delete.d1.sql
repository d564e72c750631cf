INSERT INTO "soft_delete" ("id", "name", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
  -- [[1,"one","a{2100}"],[2,"two",null],[3,"three",null]]

UPDATE "soft_delete" SET "deleted_at" = _walcast.value ->> 1 FROM json_each(?1) AS _walcast WHERE "soft_delete"."id" = _walcast.value ->> 0 AND "soft_delete"."deleted_at" IS NULL;
  -- [[1,"time 2"],[2,"time 2"]]

DELETE FROM "soft_delete" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[3]]
INSERT INTO "soft_delete" ("id", "name", "body") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "body" = excluded."body", "deleted_at" = NULL;
  -- [[1,"partial","b{2100}"],[33,"three",null]]

UPDATE "soft_delete" SET "deleted_at" = ?1 WHERE "deleted_at" IS NULL;
  -- time 4

