INSERT INTO "partitions" ("id", "day", "note") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
  -- [[1,"2024-02-29","one"],[2,"2025-06-01","two"],[3,"2025-07-01","three"]]

DELETE FROM "partitions" WHERE ("id", "day") IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1));
  -- [[3,"2025-07-01"]]
INSERT INTO "partitions" ("id", "day", "note") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
  -- [[2,"2025-06-01","changed"]]

DELETE FROM "partitions" WHERE ("id", "day") IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1));
  -- [[1,"2024-02-29"]]
INSERT INTO "partitions" ("id", "day", "note") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
  -- [[1,"2025-02-28","one"]]

DROP TABLE "partitions";
CREATE TABLE "partitions" (
  "id" INTEGER,
  "day" TEXT,
  "note" TEXT,
  PRIMARY KEY ("id", "day")
) STRICT, WITHOUT ROWID;

INSERT INTO "partitions" ("id", "day", "note") SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true ON CONFLICT ("id", "day") DO UPDATE SET "note" = excluded."note";
  -- [[4,"2024-12-31",null]]

