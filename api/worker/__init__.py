"""The worker: its loop, and the webhook dispatcher."""
