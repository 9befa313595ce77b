"""What can go wrong on the command line; the message says why and what to do."""


class ServeError(Exception):
    """The desk cannot be served."""


class CommandError(ServeError):
    """The command cannot be done."""
