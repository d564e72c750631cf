INSERT INTO "interleaved" ("id", "writer") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
  -- [[2,"b again"]]

INSERT INTO "interleaved" ("id", "writer") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "writer" = excluded."writer";
  -- [[1,"a"],[3,"a"],[5,"a, kept"],[6,"a"]]

DELETE FROM "interleaved" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]

