-- When a key was used last, to within two minutes; and how old an idempotency key is, so that old ones are found.

create index idempotency_by_age on idempotency (at);

alter table api_keys add column last_used_at timestamptz;  -- last: from here on, nobody's key can be looked up
