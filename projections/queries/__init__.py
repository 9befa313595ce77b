"""What the API reads: tickets, lists, queues, the event feed."""
