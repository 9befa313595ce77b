-- No two tickets have one number, also when the sequence forgets what it gave: a crash or a failover may set it back.

create unique index events_by_ticket_number on events ((body ->> 'number')) where type = 'Ticket.Created';
