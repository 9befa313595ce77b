-- What has to be mailed is found without reading every event.

create index events_closed on events (ord) where type = 'Ticket.Closed';
