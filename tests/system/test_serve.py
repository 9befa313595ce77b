"""`deskledger serve`: one command starts everything, keeps it up, and ends it cleanly."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3

from api.server.gunicorn_server import Server
from api.telemetry.process_watch import GARBAGE
from application.settings import Settings
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from tests.support.postgres_servers import own_server
from tests.support.running_desk import ROOT, free_port, needs_curl, wait_until


class Desk:
    """A `deskledger serve` in a directory of its own."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory, self.port = directory, free_port()
        self.output, self.log = directory / "output", directory / "log"
        self.environment = {**os.environ, **environment, "DESKLEDGER_DATA_DIR": str(directory / "data")}
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it; standard output and error go to files."""
        command = [sys.executable, "-m", "api.cli", "serve", "--port", str(self.port)]
        with self.output.open("wb") as output, self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=log)
        return self.process

    def until_ready(self) -> str:
        """Waits until it says that it is ready. Returns what it printed."""
        wait_until(lambda: "/v1/queues" in self.output.read_text(), "it says that it is ready")
        return self.output.read_text()

    def answers(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            return (
                urllib3.request("GET", f"http://127.0.0.1:{self.port}/readyz", retries=False, timeout=5).status == 200
            )
        except urllib3.exceptions.HTTPError:
            return False

    def part(self, name: str) -> int:
        """The process ID of the part that was started last."""
        return int(re.findall(rf'"part": "{name}", "pid": (\d+)', self.log.read_text())[-1])

    def end(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def desk(directory: Path, embedded: None) -> Iterator[Desk]:
    """A desk that is served; ended at the end, whatever happened."""
    running = Desk(directory, DATABASE_URL="")
    yield running
    if running.process.poll() is None:
        running.end()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


@needs_curl
def test_the_three_printed_requests_work_and_the_key_is_shown_once(desk: Desk) -> None:
    """The first start prints address, key and three curl lines that work; a later start prints no key."""
    printed = desk.until_ready()
    requests = re.findall(r"^  (curl .*)$", printed, re.MULTILINE)
    assert len(requests) == 3
    for request in requests:
        said = subprocess.run(["bash", "-c", f"{request} --fail"], capture_output=True, text=True, check=True).stdout
        assert said.startswith("{"), said
    assert re.search(r"^  dl_[\w-]{43}$", printed, re.MULTILINE)
    assert desk.end() == 0
    desk.start()
    assert not re.search(r"dl_[\w-]{43}", desk.until_ready())


def test_a_part_that_is_killed_is_started_again(desk: Desk) -> None:
    """API, worker and PostgreSQL, each killed: all of it serves again, and the log says what happened."""
    desk.until_ready()
    for name in ("api", "work"):
        pid = desk.part(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: desk.part(name) != pid, f"{name} is started again")
        wait_until(desk.answers, f"it is ready again after {name}")
    pid = EmbeddedPostgres(desk.directory / "data").running_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: EmbeddedPostgres(desk.directory / "data").running_pid() not in (pid, None), "PostgreSQL is back")
    wait_until(desk.answers, "it is ready again after PostgreSQL")
    assert desk.log.read_text().count("part died, starting it again") >= 2
    assert "PostgreSQL died, starting it again" in desk.log.read_text()


def test_everything_ends_with_it(desk: Desk) -> None:
    """SIGTERM ends every part, PostgreSQL last, with exit status 0."""
    desk.until_ready()
    pids = [desk.part("api"), desk.part("work"), EmbeddedPostgres(desk.directory / "data").running_pid()]
    assert desk.end() == 0
    assert all(map(gone, pids))


def test_a_killed_supervisor_leaves_nothing_in_the_way(desk: Desk) -> None:
    """Kill −9 of the supervisor ends API and worker too, and the next start goes on with the same data."""
    desk.until_ready()
    parts = [desk.part("api"), desk.part("work")]
    desk.process.kill()
    desk.process.wait()
    wait_until(lambda: all(map(gone, parts)), "the parts have ended")
    desk.start()
    desk.until_ready()
    assert desk.answers()


SLOW_CHILD = """
import sys, time
from api.server import gunicorn_server as server
from application.settings import Settings
class Slow(server.Server):
    def load_config(self):
        super().load_config()
        self.cfg.set("post_fork", lambda arbiter, worker: (print("forked", flush=True), time.sleep(1)))
server.Server = Slow
server.serve_api(Settings(database_url="postgresql:///none", port=int(sys.argv[1]), workers=1))
"""


def test_a_signal_in_the_middle_of_a_fork_is_not_lost() -> None:
    """SIGTERM while a child of the API has no handlers of its own yet ends it, instead of the wait for a deaf one."""
    command = [sys.executable, "-c", SLOW_CHILD, str(free_port())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as api:
        assert api.stdout is not None
        assert api.stdout.readline() == "forked\n"
        api.send_signal(signal.SIGTERM)
        assert api.wait(10) == 0


def test_a_child_seldom_looks_for_garbage() -> None:
    """What was there before the first request is left out; requests make no cycles, so the usual pace is waste."""
    before, loop = gc.get_threshold(), asyncio.new_event_loop()
    try:
        cfg = Server(Settings()).cfg
        cfg.post_worker_init(SimpleNamespace(loop=loop, cfg=cfg))
        assert (gc.get_threshold()[0], gc.get_freeze_count() > 0) == (GARBAGE, True)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        loop.close()


def test_only_one_serves_a_directory(desk: Desk) -> None:
    """A second serve on the same data directory, or the same port, ends at once with a line that says what to do."""
    desk.until_ready()
    command = [sys.executable, "-m", "api.cli", "serve"]
    same = [*command, "--data-dir", str(desk.directory / "data"), "--port", str(free_port())]
    refused = subprocess.run(same, cwd=ROOT, env=desk.environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "another deskledger serves" in refused.stderr
    other = [*command, "--data-dir", str(desk.directory / "other"), "--port", str(desk.port)]
    refused = subprocess.run(other, cwd=ROOT, env=desk.environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "choose another --host or --port" in refused.stderr
    assert desk.answers()


def test_it_waits_for_a_database_that_is_not_there_yet(directory: Path) -> None:
    """With a DATABASE_URL where nobody answers it says so and waits; when the database comes, it serves."""
    postgres = own_server(directory / "postgres")
    desk = Desk(directory, DATABASE_URL=postgres.url)
    try:
        wait_until(lambda: "waiting for the database" in desk.log.read_text(), "it says that it waits")
        postgres.start()
        desk.until_ready()
        assert desk.answers()
    finally:
        desk.end()
        postgres.stop()


def test_a_wrong_setting_stops_the_start_with_one_line(directory: Path) -> None:
    """The line names the variable and what it accepts."""
    environment = {**os.environ, "DESKLEDGER_REOPEN_DAYS": "soon"}
    command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(directory / "data")]
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    expected = "deskledger: DESKLEDGER_REOPEN_DAYS='soon' cannot be used: it takes a whole number from 0 to 3650\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", expected)
