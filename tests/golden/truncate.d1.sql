INSERT INTO "trunc_parent" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1],[2]]
INSERT INTO "trunc_child" ("id", "parent") SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "parent" = excluded."parent";
  -- [[10,1]]
INSERT INTO "trunc_kept" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1]]

DROP TABLE "trunc_parent";
CREATE TABLE "trunc_parent" (
  "id" INTEGER,
  PRIMARY KEY ("id")
) STRICT;
INSERT INTO "trunc_parent" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[4]]
DROP TABLE "trunc_child";
CREATE TABLE "trunc_child" (
  "id" INTEGER,
  "parent" INTEGER,
  PRIMARY KEY ("id")
) STRICT;

DROP TABLE "trunc_kept";
CREATE TABLE "trunc_kept" (
  "id" INTEGER,
  PRIMARY KEY ("id")
) STRICT;
INSERT INTO "trunc_kept" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1]]


