"""gunicorn, started from our own command: its asgi worker, with a guard around each connection."""

import os
import resource
import signal
import sys
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from api.http.app import create_app
from api.server.connection_guard import KEEPALIVE_SECONDS, Guard
from api.server.http_exchange import Exchange
from api.server.unparsed import problem_bytes
from api.telemetry.process_watch import seldom_collect
from application.settings import Settings

ANSWERING_SECONDS = 15  # how long a shutdown waits for answers; gunicorn kills a worker after `graceful_timeout`
MOST_CONNECTIONS = 2_000  # of one process; half of its descriptors, at most: the rest is for all else
INT_MOST_DIGITS = 10_000  # gunicorn gives all digits of a length to int(), and a header has 8,190 bytes
END_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


class ServerLog(Logger):  # type: ignore[misc]
    """Hands what gunicorn says to the root logger, which `application.observability.logs.configure` has made ours."""

    def setup(self, cfg: Any) -> None:
        """As gunicorn's, without its handlers."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


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
            "worker_class": "asgi",
            "http_parser": "python",  # the C parser that installs today accepts bare LF
            "preload_app": True,
            "keepalive": int(KEEPALIVE_SECONDS) + 60,  # the guard ends what is idle, and knows when a request has begun
            "timeout": 60,
            "graceful_timeout": 20,
            "control_socket_disable": True,
            "loglevel": "warning" if self._settings.log_level == "info" else self._settings.log_level,
            "proc_name": "deskledger-api",
            "logger_class": ServerLog,
            "post_worker_init": prepare_child,
            "pre_request": leave_out,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application."""
        return Exchange(create_app(self._settings))


def prepare_child(worker: Any) -> None:
    """Runs in each child, before its loop does."""
    worker.cfg.set("graceful_timeout", ANSWERING_SECONDS)  # sooner than our parent's, who kills a child after its own
    most = min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    Guard(worker, most, problem_bytes, lambda: worker.asgi.end_streams())
    sys.set_int_max_str_digits(INT_MOST_DIGITS)
    seldom_collect()
    worker.loop.call_soon(release_signals)


def leave_out(worker: Any, request: Any) -> None:
    """Instead of gunicorn's line with the path: somebody may have put a key there."""


def hold() -> None:
    """Keeps the signals that end the server for later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)


def release_signals() -> None:
    """Lets the signals in that were held."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def raise_descriptor_limit() -> None:
    """Raises the soft limit to what the connections need, as far as the hard one allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * MOST_CONNECTIONS)), hard))


def serve_api(settings: Settings) -> None:
    """Runs the API in this process until SIGTERM.

    A signal that ends the server must not be lost in a child that still has its parent's handlers, and is then waited
    for in vain: it is held back over the fork, until the loop of the child runs and hears signals.
    """
    raise_descriptor_limit()
    os.register_at_fork(before=hold, after_in_parent=release_signals)
    Server(settings).run()
