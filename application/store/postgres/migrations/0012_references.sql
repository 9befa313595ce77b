-- Whom a ticket can be given to beside those with a key: who has signed in with a token, as the token said last. And the
-- links, which a look for circles finds without reading every event.

create table people (
    issuer    text        not null,
    subject   text        not null,
    id        text        not null,  -- under which the person acts and is assigned
    name      text        not null,
    roles     text[]      not null,
    levels    text[]      not null default '{}',
    last_seen timestamptz not null,  -- to within an hour
    primary key (issuer, subject)
);
create index people_by_id on people (id);

create index events_linked on events (ord) where type = 'Ticket.Linked';
