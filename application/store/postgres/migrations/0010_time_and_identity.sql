-- The time of an event is held against the database's clock in the statement that appends it, after that statement has
-- its lock on the table: reads by time stand on it (docs/decisions/0042). "not valid": what is there already stays as
-- it is, and a dump restores its events before it makes the rule. A session that imports the past says so.

alter table events add constraint recorded_in_time check (
    at >= clock_timestamp() - interval '2 seconds'
    or coalesce(current_setting('deskledger.importing', true), '') = 'on') not valid;
alter table events add constraint not_in_the_future check (at <= clock_timestamp() + interval '2 seconds') not valid;

-- Which history this is. A restore from a backup begins another one, whose positions say other things.
create table log_identity (
    only_row boolean     primary key default true check (only_row),
    id       uuid        not null default gen_random_uuid(),
    since    timestamptz not null default now()
);
insert into log_identity default values;
