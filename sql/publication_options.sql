-- Gives an existing publication other options. A template. {publication}: its name, quoted.
-- {options}: e.g. publish_via_partition_root = true, publish = 'insert, update, delete, truncate'.
ALTER PUBLICATION {publication} SET ({options});
