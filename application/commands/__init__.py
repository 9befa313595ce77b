"""What somebody may want of a ticket, and the way from the wish to the events."""
