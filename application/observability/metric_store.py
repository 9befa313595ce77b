"""Where counts lie: cells of eight bytes in a file of each process, mapped into its memory.

Counting is an addition in memory. Any process of the machine can add up what all of them have counted, those that were
killed included: their files stay. A process holds a lock on its file for as long as it lives, whatever its process ID
is, so that a file without one is known to be of the past: it is added to `ended` and removed.

A file is the number of bytes in use, then records: the sizes of what follows, a key as JSON, the cells.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import msgspec

CAPACITY = 1 << 20  # bytes a process: some 6,000 histograms
SIZE, RECORD_SIZES = struct.Struct("Q"), struct.Struct("II")
SCRATCH = 64  # cells that nobody reads, for what finds no room
FIRST = SIZE.size * (1 + SCRATCH)
ENDED_FILE, LOCK_FILE, SUFFIX = "ended.json", "lock", ".cells"
Key = tuple[str, tuple[str, ...]]  # the name of a metric, and the values of its labels
Sums = dict[Key, list[float]]


class Ended(msgspec.Struct):
    """What processes of the past have counted, and whose files are in it, should removing one have been cut off."""

    sums: list[tuple[str, list[str], list[float]]] = []
    files: list[str] = []


class Cells:
    """The cells of this process: in memory only, or in a file of a directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self._name = f"{os.getpid()}-{token_hex(4)}{SUFFIX}"
        self._placing = threading.Lock()
        self._mmap = self._mapped(directory) if directory else None
        self._bytes = memoryview(self._mmap or bytearray(CAPACITY))
        self.values = self._bytes.cast("d")
        SIZE.pack_into(self._bytes, 0, FIRST)

    def _mapped(self, directory: Path) -> mmap.mmap:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):  # or it would be taken for one of the past before it has its lock
            self._file = os.open(directory / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:  # all of it now: a page that finds no room when it is written to is SIGBUS
                os.posix_fallocate(self._file, 0, CAPACITY)
            except OSError:
                os.close(self._file)
                (directory / self._name).unlink()
                raise
        return mmap.mmap(self._file, CAPACITY)

    def place(self, key: Key, count: int) -> int:
        """The index of the first of so many new cells for a key; those of the scratch when there is no room."""
        name = msgspec.json.encode(key)
        name += b" " * (-len(name) % SIZE.size)
        with self._placing:
            return self._place(name, count)

    def _place(self, name: bytes, count: int) -> int:
        begin = SIZE.unpack_from(self._bytes)[0]
        values = begin + RECORD_SIZES.size + len(name)
        end = values + count * SIZE.size
        if end > CAPACITY:
            return 1
        RECORD_SIZES.pack_into(self._bytes, begin, len(name), count)
        self._bytes[begin + RECORD_SIZES.size : values] = name
        SIZE.pack_into(self._bytes, 0, end)
        return int(values // SIZE.size)

    def sums(self) -> Sums:
        """What this process has counted."""
        used = SIZE.unpack_from(self._bytes)[0]
        return added(dict(_records(bytes(self._bytes[:used]))))

    def close(self) -> None:
        """Gives up the file, as the end of the process does."""
        if self._mmap:
            os.close(self._file)
            self.values.release()
            self._bytes.release()
            self._mmap.close()  # it holds a descriptor of its own, and with it the lock
            self._mmap = None


def gathered(directory: Path) -> tuple[Sums, Sums]:
    """What all processes of a directory have counted, and what those that live have. Tidies the files of the past."""
    with _alone(directory):
        ended = _ended(directory)
        living: list[Sums] = []
        past: dict[str, Sums] = {}
        for path in directory.glob(f"*{SUFFIX}"):
            if path.name in ended.files:
                path.unlink()
            elif (found := _read(path))[1]:
                living.append(found[0])
            else:
                past[path.name] = found[0]
        before: Sums = {(name, tuple(labels)): values for name, labels, values in ended.sums}
        if past:
            before = added(before, *past.values())
            with suppress(OSError):  # the disk is full: the files stay, and are added up again the next time
                _keep(directory, before, list(past))
    alive = added(*living)
    return added(before, alive), alive


def added(*several: Sums) -> Sums:
    """The sums, cell by cell; where a newer program counts in other cells, those of the older one are left out."""
    total: Sums = {}
    for sums in several:
        for key, values in sums.items():
            have = total.get(key)
            total[key] = (
                [a + b for a, b in zip(have, values, strict=True)] if have and len(have) == len(values) else values
            )
    return total


def _records(data: bytes) -> Iterator[tuple[Key, list[float]]]:
    at = FIRST
    while at < len(data):
        length, count = RECORD_SIZES.unpack_from(data, at)
        at += RECORD_SIZES.size
        name, labels = msgspec.json.decode(data[at : at + length], type=tuple[str, list[str]])
        at += length
        yield (name, tuple(labels)), list(struct.unpack_from(f"{count}d", data, at))
        at += count * SIZE.size


def _read(path: Path) -> tuple[Sums, bool]:
    """What a file holds, and whether its process lives. One that a crash of the machine has spoilt holds nothing."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            lives = False
        except BlockingIOError:
            lives = True
        head = file.read(SIZE.size)
        used = SIZE.unpack(head)[0] if len(head) == SIZE.size else 0
        try:
            return dict(_records(head + file.read(max(min(used, CAPACITY) - len(head), 0)))), lives
        except (msgspec.MsgspecError, UnicodeDecodeError, struct.error):
            return {}, lives


def _ended(directory: Path) -> Ended:
    try:
        return msgspec.json.decode((directory / ENDED_FILE).read_bytes(), type=Ended)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Ended()


def _keep(directory: Path, sums: Sums, files: list[str]) -> None:
    """First the sums with the names of the files that are in them, then the files: cut off between, nothing counts
    twice."""
    rows = [(name, list(labels), values) for (name, labels), values in sums.items()]
    new = directory / f"{ENDED_FILE}.new"
    new.write_bytes(msgspec.json.encode(Ended(rows, files)))
    new.replace(directory / ENDED_FILE)
    for name in files:
        (directory / name).unlink()


class _alone:  # noqa: N801 - it reads as what it is: with _alone(directory)
    """Nobody else creates or tidies files of this directory meanwhile."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
