"""Where counts lie: cells of eight bytes in files, each mapped into the memory of one process at a time.

Counting is an addition in memory. A process holds a lock on its file for as long as it lives, and one that begins goes
on in a file without a lock. So the files together hold what all processes of the machine have counted, those that were
killed included, and there are no more of them than processes have lived at once.

A file is the number of bytes in use, then records: the size of what follows, a key as JSON, the cells.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

CAPACITY = 1 << 20  # bytes a file: some 6,000 histograms
SIZE = struct.Struct("Q")
SCRATCH = 64  # cells that nobody reads, for what finds no room
FIRST = SIZE.size * (1 + SCRATCH)
SUFFIX = ".cells"
Key = tuple[str, tuple[str, ...], Annotated[int, msgspec.Meta(ge=1)]]  # a metric, its labels' values, how many cells
Sums = dict[Key, list[float]]


class Cells:
    """The cells of this process: in memory only, or in a file of a directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self._placing = threading.Lock()
        self._bytes = memoryview(_free_file(directory) if directory else bytearray(CAPACITY))
        self.values = self._bytes.cast("d")
        self.places = _places(self._bytes)
        if not self.places:  # a new file, or one that a crash of the machine has spoilt
            self._bytes[:] = bytes(CAPACITY)
            SIZE.pack_into(self._bytes, 0, FIRST)

    def place(self, key: Key) -> int:
        """The index of the first of new cells for a key; of those of the scratch when there is no room."""
        name = msgspec.json.encode(key)
        name += b" " * (-len(name) % SIZE.size)
        with self._placing:
            if key in self.places:  # another thread was faster
                return self.places[key]
            begin = SIZE.unpack_from(self._bytes)[0]
            values = begin + SIZE.size + len(name)
            end = values + key[2] * SIZE.size
            if end > CAPACITY:
                return self.places.setdefault(key, 1)
            SIZE.pack_into(self._bytes, begin, len(name))
            self._bytes[begin + SIZE.size : values] = name
            SIZE.pack_into(self._bytes, 0, end)
            return self.places.setdefault(key, values // SIZE.size)

    def sums(self) -> Sums:
        """What this process has counted, and those before it in its file."""
        return _sums(self._bytes)


def gathered(directory: Path) -> Iterator[tuple[Sums, bool]]:
    """What each file of a directory holds, and whether its process lives. Raises OSError."""
    for path in directory.glob(f"*{SUFFIX}"):
        with path.open("rb") as file:
            lives = not _locked(file.fileno(), fcntl.LOCK_SH)
            yield _sums(memoryview(file.read(CAPACITY).ljust(CAPACITY, b"\0"))), lives


def _free_file(directory: Path) -> mmap.mmap:
    """The first file that nobody counts in. The map holds a descriptor of its own, and with it the lock."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        path = directory / f"{number}{SUFFIX}"
        with path.open("ab+") as file:
            if _locked(file.fileno(), fcntl.LOCK_EX):
                try:  # all of it now: a page that finds no room when it is written to is SIGBUS
                    os.posix_fallocate(file.fileno(), 0, CAPACITY)
                except OSError:
                    path.unlink()
                    raise
                return mmap.mmap(file.fileno(), CAPACITY)
        number += 1


def _locked(file: int, lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _places(data: memoryview) -> dict[Key, int]:
    """The index of the first cell of each key; of nothing where a crash of the machine has spoilt what is there."""
    found: dict[Key, int] = {}
    begin, end = FIRST, SIZE.unpack_from(data)[0]
    try:
        while begin < end <= CAPACITY:
            values = begin + SIZE.size + SIZE.unpack_from(data, begin)[0]
            key = msgspec.json.decode(data[begin + SIZE.size : values], type=Key)
            found[key] = values // SIZE.size
            begin = values + key[2] * SIZE.size
    except (msgspec.MsgspecError, UnicodeDecodeError, struct.error):
        return {}
    return found if begin == end else {}


def _sums(data: memoryview) -> Sums:
    values = data.cast("d")
    return {key: list(values[at : at + key[2]]) for key, at in _places(data).items()}
