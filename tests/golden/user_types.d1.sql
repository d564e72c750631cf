INSERT INTO "user_types" ("id", "mood", "moods", "email", "place") SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "mood" = excluded."mood", "moods" = excluded."moods", "email" = excluded."email", "place" = excluded."place";
  -- [[9223372036854775807,"sad","[\"sad\",null,\"it's \\\"ok\\\"\"]","a@b","(1,0.1,\"a \"\"b\"\", (c)\")"],[-9223372036854775808,null,"[]",null,null]]

INSERT INTO "user_types" ("id", "mood", "moods", "email", "place") SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true ON CONFLICT ("id") DO UPDATE SET "mood" = excluded."mood", "moods" = excluded."moods", "email" = excluded."email", "place" = excluded."place";
  -- [[-9223372036854775808,"it's \"ok\"","[]",null,null]]

