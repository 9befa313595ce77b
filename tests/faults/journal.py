"""What clients were told: each writes a line before it sends a command, and a line when it is answered.

A line is written with one call, unbuffered, so that a process that is killed leaves whole lines. Times are those of the
machine's monotonic clock, in nanoseconds, which all processes share.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import msgspec


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """A command is about to be sent. `mark` is its correlation id; `size` is how many events it may lead to."""

    mark: str
    at: int
    size: int


class Told(msgspec.Struct, frozen=True, tag="told"):
    """The answer: recorded as these versions of a stream, or refused. `said` is what a refusal or failure said.

    A command that failed so that nobody can know is `unknown`; one without an answer is as well.
    """

    mark: str
    at: int
    answer: str
    stream: UUID | None = None
    versions: tuple[int, ...] = ()
    said: str = ""


RECORDED, REFUSED, UNKNOWN = "recorded", "refused", "unknown"
Line = Sent | Told
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Line)


class Journal:
    """The journal of one process; any number of threads write to it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def sending(self, mark: str, size: int) -> None:
        """The last thing before a command is sent."""
        self._write(Sent(mark, time.monotonic_ns(), size))

    def recorded(self, mark: str, stream: UUID, versions: Iterable[int]) -> None:
        """The command was acknowledged."""
        self._write(Told(mark, time.monotonic_ns(), RECORDED, stream, tuple(versions)))

    def refused(self, mark: str, said: str) -> None:
        """The command was refused: nothing of it may be recorded."""
        self._write(Told(mark, time.monotonic_ns(), REFUSED, said=said))

    def unknown(self, mark: str, said: str) -> None:
        """Nobody can know whether it is recorded."""
        self._write(Told(mark, time.monotonic_ns(), UNKNOWN, said=said[:200]))

    def _write(self, line: Line) -> None:
        os.write(self._file, _encode(line) + b"\n")


def read(paths: Iterable[Path]) -> list[Line]:
    """Every line of several journals; a last line that is not whole yet is left out."""
    lines = (line for path in paths for line in path.read_bytes().splitlines(keepends=True))
    return [_decoder.decode(line) for line in lines if line.endswith(b"\n")]
