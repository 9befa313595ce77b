"""gunicorn, started from our own command: its native asgi worker, one event loop a process."""

import gc
import os
import signal
from http import HTTPStatus
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.asgi.protocol import ASGIProtocol

from api.app import create_app
from api.problems import MEDIA_TYPE, code_of, document
from application.settings import Settings

GARBAGE = 20_000  # new objects between two looks for cycles; the usual 700 are those of a few requests
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
            "worker_class": "asgi",
            "http_parser": "python",  # the C parser that installs today accepts bare LF
            "preload_app": True,
            "keepalive": 2,  # an idle connection must not hold up a shutdown for long
            "timeout": 60,
            "graceful_timeout": 20,
            "control_socket_disable": True,
            "loglevel": "warning" if self._settings.log_level == "info" else self._settings.log_level,
            "proc_name": "deskledger-api",
            "post_worker_init": begin,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application."""
        ASGIProtocol._send_error_response = refuse
        ASGIProtocol._is_websocket_upgrade = stay_with_http
        return create_app(self._settings)


def refuse(protocol: Any, status: int, message: str, extra_headers: Any = ()) -> None:
    """Answers what gunicorn cannot read as HTTP, and therefore never hands to the application: a problem, too.

    gunicorn has no hook for it. Where it renames the method that this replaces, its own answer in plain text is back.
    """
    detail = f"The server cannot read this request: {message[:200]}."
    body = document(status, code_of(status), detail.encode(errors="replace").decode(), "/")
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in extra_headers),
        "Connection: close",
    )
    protocol._safe_write("\r\n".join((*lines, "\r\n")).encode("latin-1") + body)


def stay_with_http(protocol: Any, request: Any) -> bool:
    """Ignores the wish for a WebSocket, as RFC 9110, section 7.8, allows: the request is answered like any other."""
    return False


def begin(worker: Any) -> None:
    """Runs in each child, before its loop does."""
    gc.freeze()  # what was there before the first request stays: nobody needs to look for garbage in it
    gc.set_threshold(GARBAGE)
    worker.loop.call_soon(release)


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
