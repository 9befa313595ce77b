"""What a process says of itself, looked at each second: CPU, memory and open files."""

import gc
import os
import time
from pathlib import Path

from application.observability.metrics import CPU, DESCRIPTORS, LIVE_PROCESSES, MEMORY

EVERY_SECONDS = 1.0
OWN = Path("/proc/self")  # Linux
MEMORY_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GARBAGE = 20_000  # new objects between two looks for cycles; the usual 700 are those of a few requests


def seldom_collect() -> None:
    """For a process that has begun: what is there by now stays, and what it makes from now on has hardly any cycles."""
    gc.freeze()
    gc.set_threshold(GARBAGE)


class ProcessStats:
    """The figures of this process, under the name of its part."""

    def __init__(self, part: str) -> None:
        self._labels = (part,)
        self._cpu = 0.0
        self._due = 0.0

    def look(self) -> None:
        """Brings the figures up to date, at most once a second."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + EVERY_SECONDS
        cpu = time.process_time()
        CPU.add(self._labels, cpu - self._cpu)
        self._cpu = cpu
        LIVE_PROCESSES.set(self._labels, 1)
        if OWN.exists():
            MEMORY.set(self._labels, int((OWN / "statm").read_text().split()[1]) * MEMORY_PAGE_BYTES)
            DESCRIPTORS.set(self._labels, len(os.listdir(OWN / "fd")))  # noqa: PTH208 - only how many there are
