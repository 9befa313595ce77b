-- A mail is leased while it is sent: until then it is not due. Patience begins with the first refusal. A mail that is not
-- true any more when it would leave is withdrawn.

alter table closure_mails
    add column lease            uuid,         -- of whoever sends it now
    add column first_refused_at timestamptz,
    add column needs_desk       boolean not null default false,  -- it waits for whoever runs the desk
    add column address          text,         -- of the last attempt
    drop constraint closure_mails_state_check,
    add constraint closure_mails_state_check check (state in ('due', 'sent', 'failed', 'withdrawn'));
