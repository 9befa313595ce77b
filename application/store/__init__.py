"""The event store: appending, sealing, the recorder of the eventsourcing library."""
