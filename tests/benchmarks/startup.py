"""How long from `deskledger serve` to ready, and how much memory does it take?

    python -m tests.benchmarks.startup [RUNS]

A fresh start makes the database; a later one finds it. Memory is the proportional set size (PSS) of supervisor, API and
worker, without PostgreSQL, after 200 tickets were opened.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import urllib3

from tests.support.running_desk import free_port

ROOT = Path(__file__).parent.parent.parent


def main(runs: int) -> None:
    """Prints the figures as a table."""
    first, again, memory = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="deskledger-startup-") as directory:
            Path(directory).chmod(0o755)
            first.append(serve(directory)[0])
            seconds, used = serve(directory)
            again.append(seconds)
            memory.append(used)
    print(f"machine: {os.cpu_count()} cores, Python {sys.version.split()[0]}, {runs} runs")
    for name, figures, unit in (
        ("first start", first, "s"),
        ("later start", again, "s"),
        ("memory (PSS)", memory, "MB"),
    ):
        low, high = min(figures), max(figures)
        print(f"{name:14} median {statistics.median(figures):7.2f} {unit}   ({low:.2f} to {high:.2f})")


def serve(directory: str) -> tuple[float, float]:
    """Starts a desk, waits until it is ready, uses it, ends it. Returns seconds and megabytes."""
    port, started = free_port(), time.monotonic()
    command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", directory, "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as desk:
        while not ready(port):
            time.sleep(0.005)
        seconds = time.monotonic() - started
        use(directory, port, environment)
        megabytes = proportional_set_size(desk.pid) / 1e6
        desk.send_signal(signal.SIGTERM)
        desk.communicate()
    return seconds, megabytes


def ready(port: int) -> bool:
    """Whether /readyz answers 200."""
    try:
        url, close = f"http://127.0.0.1:{port}/readyz", {"Connection": "close"}
        return urllib3.request("GET", url, headers=close, retries=False, timeout=2).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def use(directory: str, port: int, environment: dict[str, str]) -> None:
    """Opens 200 tickets, so that memory is that of a desk at work."""
    command = [
        sys.executable,
        "-m",
        "api.cli",
        "keys",
        "create",
        "--data-dir",
        directory,
        "--name",
        "x",
        "--role",
        "intake",
    ]
    key = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]
    http = urllib3.PoolManager(headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    base = f"http://127.0.0.1:{port}/v1"
    http.request("PUT", f"{base}/clients/c", body=json.dumps({"name": "c", "email": "c@example.org"}))
    for _ in range(200):
        body = json.dumps({"client_user_id": "c", "channel": "web", "text": "it does not work"})
        assert http.request("POST", f"{base}/tickets", body=body).status == 201
    http.clear()


def proportional_set_size(parent: int) -> int:
    """The PSS in bytes of a process and its Python descendants."""
    total, waiting = 0, [parent]
    while waiting:
        pid = waiting.pop()
        waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        if "postgres" not in Path(f"/proc/{pid}/comm").read_text():
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
    return total


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
