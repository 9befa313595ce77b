-- Most mails are sent, and stay in the table: those that are due, or failed for good, are found without reading the rest.

create index closure_mails_unsettled on closure_mails (state, ticket_id, closed_version) where state <> 'sent';
