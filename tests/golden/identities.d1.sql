DELETE FROM "id_default" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[2]]
INSERT INTO "id_default" ("id", "name", "amount") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name", "amount" = excluded."amount";
  -- [[1,"one",11],[3,"",-2147483648]]

DELETE FROM "full_rows" WHERE "id" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [[1]]
INSERT INTO "full_rows" ("id", "label", "amount") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "label" = excluded."label", "amount" = excluded."amount";
  -- [[2,"changed",9],[9007199254740993,"ä\"\\",null]]

DELETE FROM "id_index" WHERE "code" IN (SELECT value ->> 0 FROM json_each(?1));
  -- [["three"]]
INSERT INTO "id_index" ("amount", "id", "code") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("code") DO UPDATE SET "amount" = excluded."amount", "id" = excluded."id";
  -- [[10,1,"one"],[21,20,"two"]]


