"""Webhooks: subscriptions, the queue of deliveries, signed and sent to addresses that are allowed."""
