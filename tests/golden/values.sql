-- Every type that pgoutput's binary format is read for. Recorded as text and in binary; the rows are the same.

CREATE TABLE source_values (
    id bigint PRIMARY KEY, flag bool, small int2, medium int4, large int8, object oid, single float4, double float8,
    name text, short varchar(20), padded char(5), bytes bytea, ident uuid, doc json, docb jsonb, day date,
    local timestamp, instant timestamptz, unix timestamptz);

-- stream

INSERT INTO source_values VALUES
    (1, true, -32768, -2147483648, -9223372036854775808, 4294967295, 0.1, 0.1, 'text', 'short', 'ab', '\x00ff',
     'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"a": [1, 2.50]}', '{"b": 1e2, "a": null}', '2024-02-29',
     '1969-12-31 23:59:59.999999', '2024-02-29 12:34:56.789+01', '1969-12-31 23:59:59.5Z'),
    (2, false, 32767, 2147483647, 9223372036854775807, 0, 'infinity', '-infinity', '', '', '', '',
     '00000000-0000-0000-0000-000000000000', '""', '0', '0044-03-15 BC', 'infinity', '-infinity', 'infinity'),
    (9007199254740993, NULL, NULL, NULL, NULL, NULL, 'NaN', 'NaN', 'ü"\
', E'tab\t', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, NULL, 0, 0, 0, 1, 16777217, 1e23, NULL, NULL, 'abcde', NULL, NULL, 'null', 'null', '294276-12-31',
     '294276-12-31 23:59:59.999999', '4713-01-01 00:00:00+00 BC', '0001-01-01 00:00:00Z');

UPDATE source_values SET id = -id WHERE id = 9007199254740993;

DELETE FROM source_values WHERE id = 2;
