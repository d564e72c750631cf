INSERT INTO "logical_messages" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1],[2]]


INSERT INTO "logical_messages" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[3]]

