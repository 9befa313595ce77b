"""What can go wrong on the command line."""


class CommandError(Exception):
    """The command cannot be done; the message says why and what to do."""
