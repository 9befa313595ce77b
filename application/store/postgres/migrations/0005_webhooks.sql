-- Who wants to be told what, and what is on its way there. The events themselves stay in the log: a delivery names its
-- position. Whoever goes through the log for a subscription is the only one who adds its deliveries and moves them on.

create table webhooks (
    id              uuid primary key,
    number          int         not null generated always as identity unique,  -- what the worker that serves it locks
    revision        int         not null default 1,
    url             text        not null,
    description     text,
    types           text[]      not null default '{}',
    ticket_id       uuid,
    client_user_id  text,
    client_stream   uuid,                    -- the client's own stream
    actor           text,
    level           text,
    secret          text        not null,    -- sealed, where DESKLEDGER_WEBHOOK_KEYS is set
    old_secret      text,
    old_until       timestamptz,             -- until then what is sent is signed with the old secret, too
    position        bigint      not null,    -- up to here the log has been gone through
    go_to           bigint,                  -- where to go on instead, once: a replay
    enabled         boolean     not null default true,
    disabled_at     timestamptz,
    disabled_reason text,
    created_at      timestamptz not null,
    created_by      text        not null,
    deleted_at      timestamptz              -- gone for everybody; the worker clears away its deliveries first
);

create table webhook_deliveries (
    webhook_id      uuid        not null,
    id              bigint      not null generated always as identity,
    position        bigint,                  -- of the event in the log; null: a ping
    stream_id       uuid        not null,
    type            text        not null,
    state           text        not null check (state in ('waiting', 'due', 'delivered', 'failed')),
    attempts        int         not null default 0,
    due_at          timestamptz not null,
    first_failed_at timestamptz,
    attempted_at    timestamptz,
    last_status     int,
    last_error      text,
    duration_ms     int,
    queued_at       timestamptz not null,
    settled_at      timestamptz,
    primary key (webhook_id, id)
);
-- What is delivered is in the primary key alone.
create index webhook_deliveries_due on webhook_deliveries (webhook_id, due_at) where state = 'due';
create index webhook_deliveries_pending on webhook_deliveries (webhook_id, stream_id, id) where state in ('waiting', 'due');
create index webhook_deliveries_unsettled on webhook_deliveries (webhook_id, state, id) where state <> 'delivered';
create index webhook_deliveries_age on webhook_deliveries using brin (queued_at);  -- for clearing away what is old
