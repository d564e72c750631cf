-- The changes of partitions arrive under their root.

CREATE TABLE partitions (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE partitions_2024 PARTITION OF partitions FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
-- Its columns stand in another order.
CREATE TABLE partitions_2025 (note text, unused int, day date NOT NULL, id int NOT NULL);
ALTER TABLE partitions_2025 DROP COLUMN unused;
ALTER TABLE partitions ATTACH PARTITION partitions_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');

-- stream

INSERT INTO partitions VALUES (1, '2024-02-29', 'one'), (2, '2025-06-01', 'two'), (3, '2025-07-01', 'three');

UPDATE partitions SET note = 'changed' WHERE id = 2;
DELETE FROM partitions_2025 WHERE id = 3;

-- To the other partition.
UPDATE partitions SET day = '2025-02-28' WHERE id = 1;

TRUNCATE partitions;

INSERT INTO partitions VALUES (4, '2024-12-31', NULL);
