-- What walcast needs at the source, for docker/compose.yaml: a role that may replicate and read, and a publication.
-- Run by psql, once, when the database is first made.

\set password `cat /run/secrets/walcast_password`

CREATE TABLE apps (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    live boolean NOT NULL DEFAULT false
);
INSERT INTO apps VALUES (1, 'first', true), (2, 'second', false);

CREATE ROLE walcast LOGIN REPLICATION PASSWORD :'password';
GRANT SELECT ON apps TO walcast;
CREATE PUBLICATION walcast FOR TABLE apps;
