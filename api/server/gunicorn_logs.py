"""gunicorn's own messages, as lines like all others."""

from typing import Any

from gunicorn.glogging import Logger


class ServerLog(Logger):  # type: ignore[misc]
    """Hands what gunicorn says to the root logger, which `application.observability.logs.configure` has made ours."""

    def setup(self, cfg: Any) -> None:
        """As gunicorn's, without its handlers."""
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True
