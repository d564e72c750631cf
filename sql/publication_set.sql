-- Gives an existing publication another list of tables. A template, like publication_create.sql.
-- {publication}: its name, quoted. {tables}: the whole new list; what it leaves out is no longer published.
-- Only the publication's owner may run it, and must own the tables. It takes effect in the stream from here on: WAL
-- written before is still decoded by the list that held then.
ALTER PUBLICATION {publication} SET {tables};
