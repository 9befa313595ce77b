"""Webhooks over HTTP: made, changed, replayed."""
