-- Events are appended concurrently and get their place in the one order of all events after they are committed.

create sequence events_ord as bigint cache 1;

create table events (
    stream_id uuid        not null,
    version   int         not null,
    ord       bigint      not null,  -- drawn after the transaction has its xid, so that the sealer can prove what is missing
    at        timestamptz not null,
    type      text        not null,
    body      jsonb       not null,
    private   bytea,                 -- what only a key of the stream can read
    meta      jsonb       not null,
    leaf      bytea       not null,  -- SHA-256(0x00 || canonical JSON of the envelope)
    primary key (stream_id, version)
);
create unique index events_by_ord on events (ord);

create table log (
    position bigint primary key,     -- 1, 2, 3 … without a gap
    ord      bigint not null unique
);

create table seal_state (
    only_row      boolean primary key default true check (only_row),
    next_position bigint not null default 1,
    hi            bigint not null default 0,          -- the highest ord seen
    holes         int8multirange not null default '{}', -- below hi and not seen: in flight, or rolled back
    fence_hi      bigint,                             -- holes up to here are dead
    fence_xid     xid8                                -- once every transaction before this one has ended
);
insert into seal_state default values;

create table idempotency (
    principal    text        not null,
    key          text        not null,
    request_hash bytea       not null,
    answer       bytea       not null,
    at           timestamptz not null,
    primary key (principal, key)
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the table % is insert-only: history is never changed', tg_table_name using errcode = 'restrict_violation';
end $$;
create trigger insert_only before update or delete or truncate on events execute function refuse_change();
create trigger insert_only before update or delete or truncate on log execute function refuse_change();
