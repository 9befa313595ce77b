"""Long work that stands back: what somebody waits for gets a core at once, even when all of them are busy.

On Linux three things decide that, and the priority of the process alone does next to nothing (docs/decisions/0019):

- Each session is a group, and the cores are shared among groups first (sched(7), "The autogroup feature"). Every
  process of PostgreSQL is a session of its own: the priority of its group counts, where the kernel makes such groups.
- Inside a group, and where there are none, the priority of the process counts.
- What has begun to run is left alone until its slice of time is over, unless what wakes up has a shorter slice. So a
  long slice stands back (sched_setattr(2), `sched_runtime`, from Linux 6.12 on).

Elsewhere the priority is lowered, and no more.
"""

import ctypes
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

NICE = 10
SLICE_MILLISECONDS = 20  # everybody else's is some 1 to 3
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the numbers of the system call: glibc names it from 2.41 on only
GROUP_TRIES = 10  # in a second: the kernel lets ordinary users change one group in a tenth of a second


def begin_background_process() -> None:
    """Stands back, and ends with its parent: a new process does it first, before it imports what it works with."""
    os.setsid()  # cores are shared among sessions; and whoever started it decides what an interruption means
    stand_back(os.getpid())
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def stand_back(pid: int) -> None:
    """Lowers the priority of a process that leads its session; one of another user stays as it is."""
    nice = NICE
    with suppress(OSError):
        nice = max(NICE, os.getpriority(os.PRIO_PROCESS, pid))  # who was put further back stays there
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        _lengthen_slice(pid, nice)
    for _ in range(GROUP_TRIES):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # no such groups, no such process, or somebody else's
            return
        else:
            return


def _lengthen_slice(pid: int, nice: int) -> None:
    number = SCHED_SETATTR.get(os.uname().machine)
    if number and sys.platform == "linux" and sys.maxsize > 2**32:  # a program of 32 bits has other numbers
        slice_ = SLICE_MILLISECONDS * 1_000_000
        attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_BATCH, 0, nice, 0, slice_, 0, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(number), pid, attributes, 0)  # an older kernel takes no notice
