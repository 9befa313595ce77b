"""The machine that was measured on, in words."""

import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks import ground

LIBRARIES = ("eventsourcing", "falcon", "gunicorn", "msgspec", "psycopg", "psycopg-pool", "umadb", "uvloop")
SETTINGS = ("fsync", "synchronous_commit", "wal_sync_method", "full_page_writes", "shared_buffers", "max_wal_size")


def describe() -> dict[str, str]:
    """What a figure depends on, by name."""
    with ground.server() as server:
        fsync = fsync_time(server.directory)
        place = mount_of(server.directory)
        with ground.connect(server.url, "benchmark") as connection:
            postgres = connection.execute("show server_version").fetchone()[0]
            settings = [f"{name}={connection.execute(f'show {name}').fetchone()[0]}" for name in SETTINGS]
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Cores": str(len(os.sched_getaffinity(0))),
        "CPU": cpu(),
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Wake-up": wake_ups(),
        "Disk": f"{place}; one 8 KiB write and fdatasync takes {fsync:.0f} µs (median of 200)",
        "Python": sys.version.split()[0],
        "PostgreSQL": f"{postgres}; {', '.join(settings)}",
        "Libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "Load generator": load_generator(),
    }


def cpu() -> str:
    """The model of the processor, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def mount_of(directory: Path) -> str:
    """The kind of file system that a directory lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    found = [(point, kind) for point, kind in mounts if directory.is_relative_to(point)]
    return max(found, key=lambda mount: len(mount[0]))[1]


def wake_ups() -> str:
    """What it costs that two processes wait for each other, on one core and on two: where that is dear, as on a virtual
    machine within another one, everything that asks and waits is slow, and two machines cannot be compared."""
    cores = sorted(os.sched_getaffinity(0))
    pairs = {"one core": (cores[0], cores[0]), "two": (cores[0], cores[-1])}
    said = ", ".join(f"{round_trip_time(*pair):.0f} µs on {name}" for name, pair in pairs.items())
    return f"a byte to another process and back takes {said} (median of 2,000)"


def round_trip_time(our_core: int, their_core: int) -> float:
    """A byte to a process on another core, or on the same, and back: microseconds."""
    allowed, took = os.sched_getaffinity(0), []
    ours, theirs = socket.socketpair()
    echo = multiprocessing.get_context("fork").Process(target=send_back, args=(theirs, their_core), daemon=True)
    echo.start()
    os.sched_setaffinity(0, {our_core})
    for _ in range(2_000):
        started = time.perf_counter()
        ours.send(b".")
        ours.recv(1)
        took.append(time.perf_counter() - started)
    os.sched_setaffinity(0, allowed)
    ours.send(b"!")
    echo.join()
    return statistics.median(took) * 1e6


def send_back(end: socket.socket, core: int) -> None:
    """The other process."""
    os.sched_setaffinity(0, {core})
    while (said := end.recv(1)) == b".":
        end.send(said)


def fsync_time(directory: Path) -> float:
    """What a commit costs at least: microseconds."""
    took = []
    with (directory / "probe").open("wb", buffering=0) as probe:
        for _ in range(200):
            started = time.perf_counter()
            probe.write(bytes(8192))
            os.fdatasync(probe.fileno())
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e6


def load_generator() -> str:
    """The version of wrk; it says it on its first line and ends with 1."""
    if not shutil.which("wrk"):
        return "wrk is not installed"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout + said.stderr).split()[:2])
