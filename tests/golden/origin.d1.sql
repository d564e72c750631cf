INSERT INTO "origin" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1]]

INSERT INTO "origin" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[2]]

INSERT INTO "origin" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[3]]

