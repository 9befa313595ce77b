-- A sealer that waited for another one must know it: its transaction ID is older than what it finds in the row.

alter table seal_state add column pass_xid xid8 not null default '0';  -- the transaction of the last pass
