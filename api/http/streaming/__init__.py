"""Answers that do not end: the event feed as a stream."""
