"""What the system does with the procedure: the commands, the event store, the sealed log, the closing e-mail."""
