BEGIN IMMEDIATE;
INSERT INTO "user_types" ("id", "mood", "moods", "email", "place") VALUES (9223372036854775807, 'sad', '["sad",null,"it''s \"ok\""]', 'a@b', '(1,0.1,"a ""b"", (c)")') ON CONFLICT ("id") DO UPDATE SET "mood" = excluded."mood", "moods" = excluded."moods", "email" = excluded."email", "place" = excluded."place";
INSERT INTO "user_types" ("id", "mood", "moods", "email", "place") VALUES (-9223372036854775808, NULL, '[]', NULL, NULL) ON CONFLICT ("id") DO UPDATE SET "mood" = excluded."mood", "moods" = excluded."moods", "email" = excluded."email", "place" = excluded."place";
UPDATE _walcast_checkpoint SET lsn = 'lsn 2', commit_time_micros = coalesce(time 1, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

BEGIN IMMEDIATE;
INSERT INTO "user_types" ("id", "mood", "moods", "email", "place") VALUES (-9223372036854775808, 'it''s "ok"', '[]', NULL, NULL) ON CONFLICT ("id") DO UPDATE SET "mood" = excluded."mood", "moods" = excluded."moods", "email" = excluded."email", "place" = excluded."place";
UPDATE _walcast_checkpoint SET lsn = 'lsn 4', commit_time_micros = coalesce(time 2, commit_time_micros), timeline = 1, transactions = transactions + 1 WHERE epoch = 1;
COMMIT;

-- user_types: -9223372036854775808, "it's \"ok\"", "[]", NULL, NULL
-- user_types: 9223372036854775807, "sad", "[\"sad\",null,\"it's \\\"ok\\\"\"]", "a@b", "(1,0.1,\"a \"\"b\"\", (c)\")"
