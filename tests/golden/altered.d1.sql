INSERT INTO "altered" ("id", "name", "count") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
  -- [[1,"one",1]]

INSERT INTO "altered" ("id", "name", "count") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
  -- [[1,"one",2]]

INSERT INTO "altered" ("id", "name", "count") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
  -- [[2,"two",2]]

INSERT INTO "altered" ("id", "name", "count") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
  -- [[3,"longer than twenty characters",9223372036854775807]]

INSERT INTO "altered" ("id", "name", "count") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "count" = excluded."count";
  -- [[3,"three",9223372036854775807]]

DELETE FROM "altered" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1],[2]]

