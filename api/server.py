"""gunicorn, started from our own command: its native asgi worker, one event loop a process."""

from typing import Any

from gunicorn.app.base import BaseApplication

from api.app import create_app
from application.settings import Settings


class Server(BaseApplication):  # type: ignore[misc]
    """The API under gunicorn. The app is made before the fork; its connections are opened after it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """What gunicorn is told."""
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": "asgi",
            "http_parser": "python",  # the C parser that installs today accepts bare LF
            "preload_app": True,
            "keepalive": 2,  # an idle connection must not hold up a shutdown for long
            "timeout": 60,
            "graceful_timeout": 20,
            "control_socket_disable": True,
            "loglevel": "warning" if self._settings.log_level == "info" else self._settings.log_level,
            "proc_name": "deskledger-api",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application."""
        return create_app(self._settings)


def serve_api(settings: Settings) -> None:
    """Runs the API in this process until SIGTERM."""
    Server(settings).run()
