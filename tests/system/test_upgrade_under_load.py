"""The upgrade under load: old processes take commands while the schema changes and new ones start beside them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from application.store.postgres.database import connect
from tests.support.running_desk import Reply, RunningDesk, wait_until
from tests.upgrade.earlier_version import EarlierDesk, expected, migrate_all, program, restore, settings

WRITERS = 3
STEP = 25  # so many commands are answered before the next step of the upgrade
MOST = 1_000  # what a writer sends at most, should the upgrade never end
ISSUE = {
    "summary": "no network", "description": "offline", "category": "network", "impact": "high", "urgency": "high",
}  # fmt: skip
SHARED = next(  # a ticket of before that all writers write on
    f"/v1/tickets/{ticket['ticket_id']}"
    for ticket in expected()["answers"]["/v1/tickets"][1]
    if ticket["state"] == "in_support" and ticket["incomplete_since"] is None
)
OPENING = {"client_user_id": "client-1", "channel": "email", "text": "help", "issue": ISSUE}
RECORDED = """
    select (select count(*) from events), (select count(*) from log),
        (select count(distinct ord) from log), (select max(position) from log)"""
HELD = "select type from events where stream_id = %s and version = %s"


class Writer(Thread):
    """Opens tickets and takes them on, one command after another, and keeps what is answered."""

    def __init__(self, desk: RunningDesk, key: str, name: str, stop: Event) -> None:
        super().__init__(name=name)
        self._desk, self._key, self._stop_writing = desk, key, stop
        self.sent: list[tuple[str, Any, dict[str, str], Reply]] = []

    def run(self) -> None:
        """Until it is told to stop."""
        for path, body, version in self._work():
            headers = {"Idempotency-Key": f"{self.name}-{len(self.sent)}"}
            headers |= {"If-Match": f'"{version}"'} if version else {}
            self.sent.append((path, body, headers, self._desk.request("POST", path, body, self._key, headers)))
            if self._stop_writing.is_set() or len(self.sent) >= MOST:
                return

    def _work(self) -> Iterator[tuple[str, Any, int | None]]:
        while True:
            yield "/v1/tickets", OPENING, None
            ticket = f"/v1/tickets/{self.sent[-1][-1].json['ticket_id']}"
            yield f"{ticket}:add_note", {"text": "looked at it"}, 5
            yield f"{ticket}:escalate", {"reason": "too hard"}, 6
            yield f"{ticket}:qualify", {"can_resolve": True, "rationale": "ours"}, 7
            yield f"{SHARED}:add_note", {"text": self.name}, None

    def answered(self, count: int) -> None:
        """Waits until so many more commands are answered."""
        wanted = len(self.sent) + count
        wait_until(lambda: len(self.sent) >= wanted or not self.is_alive(), f"{self.name} goes on", seconds=120)
        assert len(self.sent) >= wanted, self.sent[-1:]


@contextmanager
def writing(desk: RunningDesk, key: str, name: str) -> Iterator[list[Writer]]:
    """Some writers at a desk, which stop with the block."""
    stop = Event()
    writers = [Writer(desk, key, f"{name}-{number}", stop) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def go_on(*writers: Writer) -> None:
    """Waits until each of them has been answered some more."""
    for writer in writers:
        writer.answered(STEP)


def test_no_command_is_lost_while_old_and_new_run_side_by_side(empty_database: str, tmp_path: Path) -> None:
    """Every command is done, whichever program takes it; sent again to the other program, it gets its answer again."""
    restore(empty_database)
    key = expected()["keys"]["everything"]
    old = EarlierDesk(empty_database, tmp_path, program(tmp_path))
    new = RunningDesk(empty_database, tmp_path)
    for desk in (old, new):
        desk.environment |= settings()
    with ExitStack() as stack:
        stack.enter_context(old)
        with writing(old, key, "old") as before:
            go_on(*before)
            old.end("work")  # in the order of docs/how-to/upgrade.md
            migrate_all(empty_database)
            go_on(*before)
            stack.enter_context(new)
            with writing(new, key, "new") as after:
                go_on(*before, *after)
        assert [statuses(writer) for writer in (*before, *after)] == [{200, 201}] * 2 * WRITERS
        for desk, writers in ((new, before), (old, after)):
            for path, body, headers, reply in (sent for writer in writers for sent in writer.sent[-STEP:]):
                again = desk.request("POST", path, body, key, headers)
                assert (again.status, again.data) == (reply.status, reply.data)
                assert again.headers["Idempotency-Replayed"] == "true"
        old.end("api")
        new.caught_up()
        with connect(empty_database, "test") as connection:
            events, sealed, different, last = connection.execute(RECORDED).fetchone()
            assert (sealed, different, last) == (events, events, events)
            for ticket, event in recorded(before + after):
                assert connection.execute(HELD, (ticket, event["version"])).fetchone() == (event["type"],)


def statuses(writer: Writer) -> set[int]:
    """How the desk answered."""
    return {reply.status for *_, reply in writer.sent}


def recorded(writers: list[Writer]) -> Iterator[tuple[str, Any]]:
    """The ticket and event of everything that was acknowledged."""
    for writer in writers:
        for *_, reply in writer.sent:
            yield from ((reply.json["ticket_id"], event) for event in reply.json["events"])
