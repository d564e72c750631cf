-- Creates the publication that walcast streams. A template: walcast prints it filled in (`walcast check`).
-- {publication}: its name, quoted. {tables}: e.g. TABLE ONLY "public"."orders" ("id", "total"), ONLY "public"."notes".
-- With ONLY, tables that inherit from them are not published; partitions are all the same.
-- The role needs CREATE on the database and must own the tables.
--
-- Column lists (from 15) keep unmapped columns off the wire. A table with REPLICA IDENTITY FULL gets none: the server
-- would reject the application's UPDATE and DELETE. Partitions are published under their root, whose schema is mapped.
-- {options}: publish_via_partition_root = true, and from 18 publish_generated_columns = stored where needed.
CREATE PUBLICATION {publication} FOR {tables} WITH ({options});
