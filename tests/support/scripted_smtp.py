"""A mail server that does what a script says, phase by phase, and keeps what it has said 250 to."""

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from threading import Event as Flag
from threading import Lock, Thread

CLOSE, RESET, DRIP, GARBAGE = "(closes)", "(resets)", "(drips)", "(garbage)"
USUAL = {"CONNECT": "220 hello", "EHLO": "250 me", "HELO": "250 me", "AUTH": "235 2.7.0 in", "MAIL": "250 2.1.0 OK"}
USUAL |= {"RCPT": "250 2.1.5 OK", "DATA": "354 go on", "END": "250 2.0.0 queued", "QUIT": "221 2.0.0 bye"}
USUAL |= {"STARTTLS": "220 2.0.0 ready", "RSET": "250 OK"}
DRIP_SECONDS = 0.05


class ScriptedMailServer:
    """Answers each phase by the script, else as usual. `scripts` are those of the first connections, one each.

    What is no answer: `CLOSE` ends the connection, `RESET` with RST, `DRIP` sends a byte now and then for ever, and
    `GARBAGE` what nobody understands. `accepted` holds the data of each mail that was accepted.
    """

    def __init__(self, *scripts: Mapping[str, str], context: ssl.SSLContext | None = None) -> None:
        self.scripts, self.accepted, self.connections, self.dripping = list(scripts), list[bytes](), 0, Flag()
        self._context, self._ended, self._lock = context, Flag(), Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "ScriptedMailServer":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                script = self.scripts.pop(0) if self.scripts else {}
            thread = Thread(target=self._serve, args=(connection, {**USUAL, **script}), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, script: Mapping[str, str]) -> None:
        with suppress(OSError):  # whoever called has gone
            _Talk(self, connection, script, self._context).run()

    def wait(self) -> bool:
        """Waits a moment; False when the server is to end."""
        return not self._ended.wait(DRIP_SECONDS)


class _Ended(OSError):
    """The connection is over."""


class _Talk:
    """One connection."""

    def __init__(
        self,
        server: ScriptedMailServer,
        connection: socket.socket,
        script: Mapping[str, str],
        context: ssl.SSLContext | None,
    ) -> None:
        self._server, self._socket, self._script, self._context = server, connection, script, context
        self._file = connection.makefile("rb")

    def run(self) -> None:
        """Answers until somebody has enough."""
        try:
            self._say("CONNECT")
            while line := self._file.readline():
                self._obey(line.split(None, 1)[0].upper().decode("ascii", "replace") if line.strip() else "")
        finally:
            self._file.close()
            self._socket.close()

    def _obey(self, command: str) -> None:
        self._say(command)
        if command == "STARTTLS" and self._script["STARTTLS"].startswith("220") and self._context:
            self._file.close()
            self._socket = self._context.wrap_socket(self._socket, server_side=True)
            self._file = self._socket.makefile("rb")
        elif command == "DATA" and self._script["DATA"].startswith("3"):
            self._take_data()
        elif command == "QUIT":
            raise _Ended

    def _take_data(self) -> None:
        lines = []
        while (line := self._file.readline()) and line != b".\r\n":
            lines.append(line)
        if not line:
            raise _Ended
        if self._script["END"].startswith("2"):
            self._server.accepted.append(b"".join(lines))
        self._say("END")
        if "AFTER" in self._script:
            self._say("AFTER")

    def _say(self, phase: str) -> None:
        answer = self._script.get(phase, "502 5.5.1 what?")
        if answer == CLOSE:
            raise _Ended
        if answer == RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._file.close()
            self._socket.close()
            raise _Ended
        if answer.endswith(DRIP):
            self._drip(answer.removesuffix(DRIP))
        self._socket.sendall(b"\xff\x00 ?\r\n" if answer == GARBAGE else answer.encode() + b"\r\n")

    def _drip(self, begun: str) -> None:
        self._socket.sendall(begun.encode())
        self._server.dripping.set()
        while self._server.wait():
            self._socket.sendall(b"x")
        raise _Ended
