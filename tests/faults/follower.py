"""A follower of the log, as a process of its own: it writes down everything that it reads, in the order of reading.

    python -m faults.follower URL FILE POSITION

It begins after a position, and goes on after the last one that it has read. Now and then it reads again what it has
read before. When the database goes away, it waits for it.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from api.cli.serve import end_with_parent
from application.store.postgres.database import connect
from tests.faults.checker import Batch

AFTER = """
    select position, stream_id, version, leaf from log join events using (ord)
    where position > %s order by position limit %s"""
MOST, AGAIN = 2_000, 100
POLL_SECONDS = 0.03
STOP = threading.Event()
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Batch)


def follow(url: str, path: Path, position: int) -> None:
    """Reads until the process is to end."""
    file, chance = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), random.Random(position)
    while not STOP.is_set():
        try:
            with connect(url, "follower") as connection:
                while not STOP.is_set():
                    position = read_on(connection, file, position, MOST)
                    if chance.random() < 0.1:
                        read_on(connection, file, chance.randint(0, position), AGAIN)
                    STOP.wait(POLL_SECONDS)
        except psycopg.Error:
            STOP.wait(POLL_SECONDS)


def read_on(connection: psycopg.Connection[Any], file: int, position: int, most: int) -> int:
    """Writes down what comes after a position. Returns where it ends."""
    rows = connection.execute(AFTER, (position, most)).fetchall()
    if rows:
        os.write(file, _encode(Batch(time.monotonic_ns(), position, tuple(rows))) + b"\n")
    return rows[-1][0] if rows else position


def batches(paths: Iterable[Path]) -> list[Batch]:
    """What followers have read."""
    lines = (line for path in paths for line in path.read_bytes().splitlines(keepends=True))
    return [_decoder.decode(line) for line in lines if line.endswith(b"\n")]


if __name__ == "__main__":
    end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    follow(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
