"""gunicorn, started from our own command: its native asgi worker, with limits of ours, one event loop a process."""

import os
import signal
from typing import Any

from gunicorn.app.base import BaseApplication

from api.accepting import COUNTS
from api.app import create_app
from api.connection import ANSWERING_SECONDS, IDLE_SECONDS, Worker
from api.logs import ServerLog
from application.settings import Settings
from application.vitals import seldom_collect

ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


class Server(BaseApplication):  # type: ignore[misc]
    """The API under gunicorn. The app is made before the fork; its connections are opened after it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """What gunicorn is told."""
        host, port = self._settings.host, self._settings.port
        options: dict[str, Any] = {
            "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "workers": self._settings.workers,
            "worker_class": Worker,
            "http_parser": "python",  # the C parser that installs today accepts bare LF
            "preload_app": True,
            "keepalive": IDLE_SECONDS,
            "timeout": 60,
            "graceful_timeout": 20,
            "control_socket_disable": True,
            "loglevel": "warning" if self._settings.log_level == "info" else self._settings.log_level,
            "proc_name": "deskledger-api",
            "logger_class": ServerLog,
            "pre_fork": COUNTS.begin,
            "post_worker_init": begin,
            "pre_request": leave_out,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application."""
        return create_app(self._settings)


def begin(worker: Any) -> None:
    """Runs in each child, before its loop does."""
    worker.cfg.set("graceful_timeout", ANSWERING_SECONDS)  # sooner than our parent's, who kills a child after its own
    seldom_collect()
    worker.loop.call_soon(release)


def leave_out(worker: Any, request: Any) -> None:
    """Instead of gunicorn's line with the path: somebody may have put a key there."""


def hold() -> None:
    """Keeps the signals that end the server for later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def release() -> None:
    """Lets the signals in that were held."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def serve_api(settings: Settings) -> None:
    """Runs the API in this process until SIGTERM.

    A signal that ends the server must not be lost in a child that still has its parent's handlers, and is then waited
    for in vain: it is held back over the fork, until the loop of the child runs and hears signals.
    """
    os.register_at_fork(before=hold, after_in_parent=release)
    Server(settings).run()
