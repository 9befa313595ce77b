"""The closing e-mail: its outbox, its text, its way to the mail server."""
