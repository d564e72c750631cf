-- What a DBA runs once to give walcast a role of its own. A template:
-- {role}: its name, quoted. {schema}: a schema that holds mapped tables, quoted. {tables}: the mapped tables.
-- {publication}: as in publication_create.sql, which the tables' owner runs.
--
-- REPLICATION lets it open the stream; on Amazon RDS: GRANT rds_replication TO {role} instead. SELECT is for backfill,
-- healing and reconcile. BYPASSRLS is needed only where a mapped table has row security: without it such a table
-- reads as empty. The password comes from \password, so that it is in no file and no log.
CREATE ROLE {role} LOGIN REPLICATION;
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON {tables} TO {role};
-- ALTER ROLE {role} BYPASSRLS;
