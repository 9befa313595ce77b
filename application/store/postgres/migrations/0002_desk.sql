-- What the desk needs beside the events: ticket numbers, keys, and the closing e-mails that are due.

create sequence ticket_numbers as bigint cache 1;

create table api_keys (
    id             text primary key,
    hash           bytea       not null unique,  -- SHA-256 of the whole key; the key itself is nowhere
    name           text        not null,
    roles          text[]      not null,
    levels         text[]      not null default '{}',
    client_user_id text,
    created_at     timestamptz not null,
    expires_at     timestamptz,
    revoked_at     timestamptz
);

create table closure_mails (
    ticket_id      uuid        not null,
    closed_version int         not null,
    message_id     text        not null unique,
    state          text        not null default 'due' check (state in ('due', 'sent', 'failed')),
    attempts       int         not null default 0,
    due_at         timestamptz not null,
    last_error     text,
    queued_at      timestamptz not null,
    settled_at     timestamptz,
    primary key (ticket_id, closed_version)
);
create index closure_mails_due on closure_mails (due_at) where state = 'due';

create table followers (
    name     text primary key,
    position bigint not null default 0
);
insert into followers (name) values ('closure_mail');
