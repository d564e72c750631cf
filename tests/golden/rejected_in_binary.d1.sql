INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected","insert","[1]","amount: the type is not read in binary","lsn 1",xid 1],["rejected","insert","[2]","amount: the type is not read in binary","lsn 1",xid 1],["rejected","insert","[3]","amount: the type is not read in binary","lsn 1",xid 1],["rejected","insert","[4]","amount: the type is not read in binary","lsn 1",xid 1],["rejected_key","insert","[\"\\\\x0001ffff000000011388\"]","id: the type is not read in binary","lsn 1",xid 1],["rejected_key","insert","[\"\\\\x00010000000000010001\"]","id: the type is not read in binary","lsn 1",xid 1]]

INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected","update","[1]","amount: the type is not read in binary","lsn 3",xid 2],["rejected","update","[2]","amount: the type is not read in binary","lsn 3",xid 2]]

INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1);
  -- [["rejected_key","update","[\"\\\\x000200000000000100011388\"]","id: the type is not read in binary","lsn 5",xid 3],["rejected_key","delete","[\"\\\\x0001ffff000000011388\"]","id: the type is not read in binary","lsn 5",xid 3],["rejected_key","update","[\"\\\\x00010000000000000002\"]","id: the type is not read in binary","lsn 5",xid 3]]

