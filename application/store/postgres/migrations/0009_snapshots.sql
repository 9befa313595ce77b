-- A ticket at every 25th version, as one version of the program folds it, so that a long one is not folded from its
-- first event each time; and at a dossier, which is as long as all that came before. It may be emptied at any time:
-- nothing is lost, and the worker makes it anew.

create table snapshots (
    stream_id uuid        not null,
    fold      text        not null,  -- the hash of the code that folded it: no other code reads it
    version   int         not null,
    ticket    text        not null,  -- JSON
    made_at   timestamptz not null default now(),
    primary key (stream_id, fold, version)
);
create index events_worth_a_snapshot on events (ord) include (stream_id, version)
    where version % 25 = 0 or (type = 'Ticket.DossierCompiled' and version > 25);
