"""The log: one JSON object a line on standard error, every request in it, nothing in it that was not meant for it."""

import asyncio
import gc
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import falcon.asgi
import falcon.testing
import psycopg
import pytest
import structlog

from api.http.app import create_app
from application.clock import utc_now
from application.helpdesk import HelpDesk
from application.identity.api_keys import NewKey, create_key
from application.observability import logs, metrics
from application.observability.logs import MOST_WAITING, LineHandler, configure, error_summary
from application.settings import Settings
from application.store.postgres.database import connect
from domain.values import Role
from projections.runner import project_all
from tests.support.running_desk import ROOT, RunningDesk, wait_until
from tests.support.write_side import opened, poison

MARK = "Zebra-4711"
ESCAPE = "\x1b]0;own\x07"  # would give a terminal another title


def lines(served: RunningDesk, part: str = "api") -> list[dict[str, Any]]:
    """What a part has written so far, each line decoded."""
    return [json.loads(line) for line in (served.directory / f"{part}.log").read_text().split("\n")[:-1]]


def line_of(served: RunningDesk, request_id: str) -> dict[str, Any]:
    """The access line of a request, which comes within a moment."""
    found: list[dict[str, Any]] = []

    def came() -> bool:
        found[:] = [line for line in lines(served) if line["event"] == "request" and line["request_id"] == request_id]
        return bool(found)

    wait_until(came, f"{request_id} is logged")
    assert len(found) == 1
    return found[0]


def named(request_id: str, **more: str) -> dict[str, str]:
    """The headers of a request that the log is to know by this name."""
    return {"X-Request-Id": request_id} | {name.replace("_", "-"): value for name, value in more.items()}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A handler that writes each line at once; logging as before, after the test."""
    before, root, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    monkeypatch.setattr(logs, "HANDLER", LineHandler())
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = root
    logging.root.setLevel(level)


# ── Access lines ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_command_is_one_line(shared_desk: RunningDesk) -> None:
    """The line of a command names route, status, time, caller, ticket, command and trace."""
    ticket = shared_desk.ticket()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    path, headers = f"/v1/tickets/{ticket}:add_note", named("cmd-1", traceparent=trace)
    assert shared_desk.request("POST", path, {"text": "seen"}, headers=headers).status == 200
    line = line_of(shared_desk, "cmd-1")
    assert 0 < line.pop("duration_ms") < 10_000
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("principal").startswith("intake-agent-")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "cmd-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST",
        "route": "/v1/tickets/{ticket_id}:{command}",
        "status": 200,
        "ticket_id": ticket,
        "command": "add_note",
    }


@pytest.mark.parametrize(
    ("method", "path", "key", "expected"),
    [
        (
            "POST",
            "/v1/tickets/00000000-0000-0000-0000-000000000001:add_note",
            None,
            (404, "unknown_ticket", "add_note"),
        ),
        ("POST", "/v1/tickets/00000000-0000-0000-0000-000000000001:dance", None, (404, "unknown_command", "unknown")),
        ("GET", "/v1/queues", "dk_no", (401, "key_unknown", None)),
        ("GET", "/nowhere", None, (404, "not_found", None)),
        ("DELETE", "/v1/queues", None, (405, "method_not_allowed", None)),
    ],
)
def test_what_is_refused_is_logged_too(
    shared_desk: RunningDesk, method: str, path: str, key: str | None, expected: tuple[int, str, str | None]
) -> None:
    """With the code of the problem, which names the request and the trace as the line does."""
    name = f"refused-{expected[0]}-{expected[1]}"
    body = {"text": "x"} if method == "POST" else None
    reply = shared_desk.request(method, path, body, key, named(name))
    line = line_of(shared_desk, name)
    assert (line["status"], line["code"], line.get("command")) == expected == (reply.status, *expected[1:])
    assert line["route"] == {"/nowhere": "-", "/v1/queues": path}.get(path, "/v1/tickets/{ticket_id}:{command}")
    assert (reply.json["request_id"], reply.json["trace_id"]) == (name, line["trace_id"])


def test_a_ticket_that_begins_is_named(shared_desk: RunningDesk) -> None:
    """The line of the command that opens a ticket has the ticket's id, and its command's name."""
    body = {"channel": "email", "text": "help", "sender": {"email": "a@example.org"}}
    reply = shared_desk.request("POST", "/v1/requests", body, headers=named("opens"))
    line = line_of(shared_desk, "opens")
    assert (line["ticket_id"], line["command"]) == (reply.json["ticket_id"], "receive_request")


@pytest.mark.parametrize("given", ["abc.DEF-1_2~3", "a" * 128])
def test_a_request_keeps_its_name(shared_desk: RunningDesk, given: str) -> None:
    """A well-formed X-Request-Id is answered as it came."""
    reply = shared_desk.request("GET", "/livez", headers=named(given))
    assert reply.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "two words", 'quo"te', "a{b}", "caf\xe9"])
def test_a_bad_name_is_replaced(shared_desk: RunningDesk, given: str) -> None:
    """One that is not is replaced by one of ours, which differs from request to request."""
    made = {shared_desk.request("GET", "/livez", headers=named(given)).headers["X-Request-Id"] for _ in range(2)}
    assert len(made) == 2
    assert all(len(name) == 16 and int(name, 16) for name in made)


def test_nothing_of_a_request_ends_a_line(shared_desk: RunningDesk) -> None:
    """Line ends, escapes and quotes in path, query and headers come to nothing: every line is one object of ours."""
    evil = "%0a%1b%5B31m%22%7D%0d%0A%7B%22event%22:%22forged%22%7D"
    for path in (f"/v1/{evil}", f"/v1/tickets?q={evil}", f"/v1/clients/{evil}", f"/v1/queues/{evil}:claim_next"):
        shared_desk.request("GET", path, headers=named('x"}{', traceparent="\x80\xa0", X_Correlation_Id="\xff\x9b"))
    shared_desk.request("GET", "/livez", headers=named("after-evil"))
    line_of(shared_desk, "after-evil")
    raw = (shared_desk.directory / "api.log").read_bytes()
    shared_desk.request("GET", "/livez", headers={"X-Request-Id": "\x7f"})  # no request that HTTP allows
    events = {line["event"] for line in lines(shared_desk)}  # gunicorn's own too, when another test ended a process
    assert not any("forged" in event for event in events)
    assert all(32 <= byte < 127 or byte == 10 for byte in raw)


def test_nothing_private_is_logged(shared_desk: RunningDesk) -> None:
    """No key, body, free text, parameter or value of a path is in any log, also where the request is refused."""
    key = shared_desk.staff
    shared_desk.client("client-1", f"{MARK}@example.org")
    ticket = shared_desk.request(
        "POST", "/v1/tickets", {"client_user_id": "client-1", "channel": "email", "text": MARK}
    )
    path = f"/v1/tickets/{ticket.json['ticket_id']}:add_note"
    for body in ({"text": MARK}, {"txet": MARK}, MARK.encode(), {"text": MARK, MARK: 1}):
        shared_desk.request("POST", path, body, headers={"Idempotency-Key": MARK, "X-Correlation-Id": MARK})
    for query in (f"/v1/tickets?q={MARK}", f"/v1/clients/{MARK}", f"/v1/{MARK}", f"/v1/queues/{MARK}"):
        shared_desk.request("GET", query)
    shared_desk.request("GET", "/v1/queues", key=f"dk_{MARK}")
    shared_desk.caught_up()
    shared_desk.request("GET", "/livez", headers=named("last"))
    line_of(shared_desk, "last")
    written = "".join((shared_desk.directory / f"{part}.log").read_text() for part in ("api", "work"))
    assert "add_note" in written
    assert key not in written
    assert MARK not in written


def test_the_level_leaves_lines_out(database: str, tmp_path: Path) -> None:
    """Requests are of level info: above it they are left out, and errors are not."""
    served = RunningDesk(database, tmp_path, workers=1, parts=("api",))
    served.environment["DESKLEDGER_LOG_LEVEL"] = "warning"
    with served, connect(database, "test") as connection:
        assert served.get("/livez").status == 200
        connection.execute("alter table closure_mails rename column state to condition")
        assert served.get("/v1/closure_mails").status == 500
    assert {line["event"] for line in lines(served)} == {"unexpected error"}


async def garbage_of(app: falcon.asgi.App, scope: dict[str, Any], requests: int) -> int:
    """How many objects so many requests leave to the garbage collector."""
    statuses = set()

    async def send(event: dict[str, Any]) -> None:
        statuses.add(event.get("status"))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"text": "x"}', "more_body": False}

    async with falcon.testing.ASGIConductor(app):
        await app(dict(scope), receive, send)
        gc.collect()
        gc.disable()
        for _ in range(requests):
            await app(dict(scope), receive, send)
        left = gc.collect()
        gc.enable()
    assert statuses == {200, None}
    return left


def test_a_request_leaves_no_garbage(desk: HelpDesk, database: str, tmp_path: Path, configured: None) -> None:
    """What is remembered of a request for its line goes with it, and not when the collector comes: that was a sixth of
    the API's time."""
    ticket = opened(desk)
    with connect(database, "test") as connection:
        key = create_key(connection, NewKey("front desk", [Role.INTAKE]), utc_now())[1]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Content-Length": "13"}
    scope = falcon.testing.create_scope(path=f"/v1/tickets/{ticket}:add_note", method="POST", headers=headers)
    scope["headers"] = [tuple(pair) for pair in scope["headers"]]
    app = create_app(Settings(database_url=database, data_dir=tmp_path))
    hook = sys.excepthook
    try:
        assert asyncio.run(garbage_of(app, scope, 50)) < 50
    finally:
        sys.excepthook = hook
        metrics.start_counting(None)


# ── Errors ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_our_mistake_is_in_the_log_and_not_in_the_answer(served: RunningDesk) -> None:
    """An unexpected error: the log has the traceback under the name that the answer gives, the answer has no word of
    it."""
    with connect(served.database, "test") as connection:
        connection.execute("alter table closure_mails rename column state to condition")
    reply = served.request("GET", "/v1/closure_mails", headers=named("mistake"))
    assert (reply.status, reply.json["code"], reply.json["request_id"]) == (500, "internal_error", "mistake")
    assert not any(word in reply.data for word in (b"Traceback", b"psycopg", b"closure_mails.state", b"column"))
    line_of(served, "mistake")
    (line,) = [line for line in lines(served) if line["event"] == "unexpected error"]
    assert (line["level"], line["request_id"], line["route"]) == ("error", "mistake", "/v1/closure_mails")
    assert 'File "' in line["exception"]
    assert "psycopg.errors.UndefinedColumn" in line["exception"]


def test_what_gunicorn_says_is_a_line_too(shared_desk: RunningDesk) -> None:
    """A killed child: gunicorn's words come as JSON, like all others; so does what is no HTTP at all."""
    children = Path(f"/proc/{shared_desk.processes['api'].pid}/task/{shared_desk.processes['api'].pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    wait_until(lambda: any(line.get("logger") == "gunicorn.error" for line in lines(shared_desk)), "gunicorn says so")
    (said,) = [line for line in lines(shared_desk) if line.get("logger") == "gunicorn.error"][:1]
    assert said["level"] in ("warning", "error")
    assert "SIGKILL" in said["event"]


REPLAY = """
import os
from application.store.postgres.database import connect
from projections.engine.parking import replay
from projections.engine.process_pool import process_pool
from projections.runner import PROJECTIONS

if __name__ == "__main__":
    with connect(os.environ["DATABASE_URL"], "parent") as connection, process_pool(connection, 1, ()) as run:
        list(run([(replay, (PROJECTIONS[0],))]))
"""


def test_a_child_of_a_rebuild_logs_as_all_do(desk: HelpDesk, database: str, connection: psycopg.Connection) -> None:
    """A stream that is parked in a process of a rebuild is a JSON line on standard error, with its trace."""
    ticket = opened(desk)
    poison(connection, ticket)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    connection.execute("alter table events disable trigger insert_only")
    query = "update events set meta = meta || jsonb_build_object('traceparent', %s::text) where version = 6"
    connection.execute(query, (trace,))
    project_all(connection)
    environment = os.environ | {"DATABASE_URL": database}
    said = subprocess.run([sys.executable, "-c", REPLAY], env=environment, check=True, capture_output=True, text=True)
    (line,) = [json.loads(line) for line in said.stderr.splitlines()]
    assert (line["event"], line["stream_id"]) == ("a stream is parked: see deskledger replay", str(ticket))
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert said.stdout == ""


def failing(error: Exception) -> None:
    """Fails, and logs it."""
    try:
        raise error
    except ValueError:
        structlog.get_logger().exception("it failed")


@pytest.mark.usefixtures("configured")
def test_a_traceback_quotes_no_row(connection: psycopg.Connection, capfd: pytest.CaptureFixture[str]) -> None:
    """PostgreSQL's DETAIL, which repeats what somebody wrote, is in no line; kinds and frames of all errors are."""
    configure("info")
    twice = f"insert into followers values ('{MARK}'), ('{MARK}')"
    with pytest.raises(psycopg.errors.UniqueViolation, match=MARK) as failed:
        connection.execute(twice.encode())
    assert error_summary(failed.value) == 'duplicate key value violates unique constraint "followers_pkey"'
    outer = ValueError("the outer one")
    outer.__cause__ = failed.value
    with suppress(ValueError):
        failing(outer)
    line = json.loads(capfd.readouterr().err)
    assert MARK not in line["exception"]
    assert line["exception"].index("psycopg.errors.UniqueViolation: ") < line["exception"].index("the outer one")


@pytest.mark.usefixtures("configured")
def test_what_libraries_say(capfd: pytest.CaptureFixture[str]) -> None:
    """The logging module's lines are lines like all others; levels are kept."""
    configure("warning")
    logging.getLogger("some.library").info("not this")
    logging.getLogger("some.library").warning("look\nhere %s", ESCAPE)
    logging.getLogger("some.library").error("failed", exc_info=ValueError("why"))
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["logger"]) == (f"look\nhere {ESCAPE}", "warning", "some.library")
    assert second["exception"] == "builtins.ValueError: why\n"


@pytest.mark.usefixtures("configured")
def test_on_a_terminal_it_is_for_people(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody is looking, lines have colours, and no value can steer the terminal."""
    ours, its = os.openpty()
    with open(its, "w") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stderr", terminal)
        configure("info")
        log = structlog.get_logger()
        log.info("hello", who=f"me{ESCAPE}\n", n=1)
        log.error("bad", exc_info=ValueError(f"two{ESCAPE}"))
    os.close(ours)
    monkeypatch.setattr(sys, "stderr", None)
    assert not logs.is_console()
    shown = capfd.readouterr().err
    assert "\x1b[" in shown
    assert ESCAPE not in shown
    assert "me\\x1b]0;own\\x07\\n" in shown
    assert "ValueError: two\\x1b]0;own\\x07" in shown


# ── Nobody waits for whoever reads ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: where it is read, where it is written."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def dropped() -> float:
    """How many lines this process has dropped."""
    return metrics.total().get(metrics.LINES_DROPPED.key(), [0.0])[0]


def read_until(read: int, last: bytes) -> bytes:
    """What comes out of a pipe, up to these bytes."""
    got = b""
    while last not in got:
        assert select.select([read], [], [], 30)[0], "nothing comes any more"
        got += os.read(read, 1 << 16)
    return got


def test_a_full_pipe_drops_and_says_so(
    pipe: tuple[int, int], configured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody reads, so many lines wait and the others are dropped; once somebody reads, a line says how many."""
    read, write = pipe
    handler, line = LineHandler(write), b'{"n": 1}' + b" " * 991 + b"\n"
    monkeypatch.setattr(logs, "HANDLER", handler)
    configure("info")
    handler.start()
    handler.start()  # twice is once
    before = dropped()
    for _ in range(2 * MOST_WAITING):
        handler.enqueue(line)
    *written, last = read_until(read, b"missing").splitlines()
    assert json.loads(last)["lines"] + len(written) == 2 * MOST_WAITING
    assert MOST_WAITING <= len(written) < 2 * MOST_WAITING
    assert dropped() - before == json.loads(last)["lines"]
    assert set(written) == {line.rstrip(b"\n")}
    assert os.get_blocking(write)  # who shares it still waits there


def test_what_waits_is_written_at_the_end(pipe: tuple[int, int]) -> None:
    """Before a process serves each line is written at once; one that ends has written all that it has, in order."""
    read, write = pipe
    handler = LineHandler(write)
    handler.enqueue(b"before\n")
    handler.flush()
    assert os.read(read, 1 << 16) == b"before\n"
    handler.start()
    lines = [b"x" * 5_000 + b"\n", *(b"%d\n" % number for number in range(2_000))]  # a pipe does not take all at once
    for line in lines:
        handler.enqueue(line)
    handler.flush()
    handler.flush()
    assert os.read(read, 1 << 16) == b"".join(lines)


def test_a_process_that_ends_writes_its_last_lines() -> None:
    """Also one that an error ends: it is a line like all others, and those of before it are there."""
    program = """if True:
        import structlog
        from application.observability import logs
        logs.configure("info")
        logs.start_writer()
        structlog.get_logger().info("the last but one")
        raise ValueError("why")"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    first, last = (json.loads(line) for line in ended.stderr.splitlines())
    assert (first["event"], last["event"], last["level"]) == ("the last but one", "ended by an error", "critical")
    assert last["exception"].endswith("builtins.ValueError: why\n")


def test_lines_of_several_processes_do_not_mix(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written together is no longer than a pipe takes whole, and no line is cut."""
    read, write = pipe
    pieces: list[bytes] = []
    put = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: pieces.append(data) or put(descriptor, data))
    handler = LineHandler(write)
    handler.start()
    for _ in range(100):
        handler.enqueue(b"x" * 299 + b"\n")
    handler.flush()
    assert len(os.read(read, 1 << 16)) == 30_000
    assert len(pieces) < 100
    assert all(len(piece) <= 4096 and piece.endswith(b"\n") for piece in pieces)


def test_a_reader_that_is_gone_is_nobodys_fault() -> None:
    """Lines that nobody can read any more are dropped, and counted."""
    read, write = os.pipe()
    os.close(read)
    before = dropped()
    handler = LineHandler(write)
    handler.enqueue(b"one\n")
    handler.start()
    handler.enqueue(b"two\n")
    handler.enqueue(b"three\n")
    handler.flush()
    os.close(write)
    assert dropped() == before + 3


@pytest.mark.parametrize("started", [False, True])
def test_a_descriptor_that_does_not_wait_is_waited_for(
    pipe: tuple[int, int], started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another program has made standard error non-blocking, no line is lost, also before a process serves."""
    read, write = pipe
    os.set_blocking(write, False)
    waiting, sleep = threading.Event(), logs.time.sleep

    def seen(seconds: float) -> None:
        if seconds == logs.LOG_AGAIN_SECONDS:
            waiting.set()
        sleep(seconds)

    monkeypatch.setattr(logs.time, "sleep", seen)
    handler = LineHandler(write)
    if started:
        handler.start()
    sent = b"".join(b"%06d\n" % number for number in range(20_000)) + b"end\n"
    writing = threading.Thread(target=handler.enqueue, args=(sent,))
    writing.start()
    assert waiting.wait(60)  # the pipe is full, and nobody has read yet
    assert read_until(read, b"end\n") == sent
    writing.join()


@pytest.mark.usefixtures("configured")
def test_a_record_that_cannot_be_rendered_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """What was logged is not printed in another way then, and nobody is stopped: the line says whose record it was."""
    configure("info")
    logging.getLogger("some.library").warning("%d times", MARK)
    said = capfd.readouterr()
    line = json.loads(said.err)
    assert (line["event"], line["logger"]) == ("a log record cannot be rendered", "some.library")
    assert MARK not in said.err + said.out


def test_the_api_serves_although_nobody_reads_its_log(database: str, tmp_path: Path) -> None:
    """Standard error is a pipe that nobody reads, and full long since: every request is answered, also the last."""
    served = RunningDesk(database, tmp_path, workers=1, parts=())
    command = [sys.executable, "-m", "api.cli", "api"]
    with served, subprocess.Popen(command, cwd=ROOT, env=served.environment, stderr=subprocess.PIPE) as process:
        try:
            wait_until(served._answers, "the API answers")
            for number in range(800):  # 200 bytes each, and a pipe holds 64 KiB
                assert served.request("GET", "/livez", headers=named(f"unread-{number}")).status == 200
        finally:
            process.terminate()
            _, said = process.communicate(timeout=20)
    assert len(said) > 1 << 16
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["request"] * len(said.splitlines())
