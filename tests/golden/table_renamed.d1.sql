INSERT INTO "table_renamed" ("id") SELECT value ->> 0 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO NOTHING;
  -- [[1]]


