"""Plays the story on a desk over HTTP, and compares every answer with what the procedure says."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from api.cli.demo.demo_desk import Desk, Reply
from api.cli.demo.screen import Screen
from api.cli.demo.script import DOSSIER, Move, Moves

Found = TypeVar("Found")
PATIENCE = 15
DEMO_POLL_SECONDS = 0.03
OPENING_PATHS = {"receive_request": "/v1/requests", "open_ticket": "/v1/tickets"}


class TicketRun(msgspec.Struct):
    """A ticket under way: the moves that are left, and what their callers know of it by the last answer."""

    title: str
    moves: list[Move]
    ticket_id: str = ""
    version: int = 0
    number: str = ""
    queue: str | None = None
    state: str | None = None


class Player:
    """Plays paths. `deviations` has a line for each answer that is not what the procedure says."""

    def __init__(self, desk: Desk, screen: Screen, pace: float = 0.0) -> None:
        self._desk, self._screen, self._pace = desk, screen, pace
        self._mails_seen, self._patience = 0, PATIENCE
        self.runs: list[TicketRun] = []
        self.deviations: list[str] = []

    def play(self, paths: dict[str, Moves]) -> None:
        """Every request arrives first, so that there are queues to work on; then path by path."""
        self.runs = [TicketRun(title, list(moves)) for title, moves in paths.items()]
        self._screen.heading(f"{len(paths)} requests arrive")
        for run in self.runs:
            self._give(run, run.moves.pop(0))
        for number, run in enumerate(self.runs, 1):
            self._screen.heading(f"Path {number} of {len(paths)}: {run.title}")
            while run.moves:
                self._give(run, run.moves.pop(0))

    def deviate(self, where: str, what: str) -> None:
        """Something is not as the procedure says."""
        self.deviations.append(f"{where}: {what}")
        self._screen.say((f"DEVIATES: {where}: {what}", "bold red"))

    def wait_for(self, read: Callable[[], Found], holds: Callable[[Found], bool]) -> Found:
        """What is read when it is as it must be, or when that has taken longer than it reasonably may."""
        deadline = time.monotonic() + self._patience
        found = read()
        while not holds(found):
            if time.monotonic() > deadline:
                self._patience = 0  # a desk that hangs once is not waited for a hundred times
                break
            time.sleep(DEMO_POLL_SECONDS)
            found = read()
        return found

    def _give(self, run: TicketRun, move: Move) -> None:
        reply = self._send(run, move)
        answer, expected = self._answer(run, move, reply), move.refusal or move.records
        where = f"{run.number or run.title}, {move.who} {move.command}"
        if answer != expected:
            run.moves.clear()  # what follows would only deviate in turn
            self.deviate(where, f"answered {answer or 'nothing'} in place of {expected}")
        else:
            self._screen.move(move, run.queue or run.state or "", run.number)
        self._see_mails()
        self._see_queues(where)
        time.sleep(self._pace)

    def _send(self, run: TicketRun, move: Move) -> Reply:
        body = dict(move.body)
        headers = {"Prefer": f"wait={PATIENCE}"}  # so that queues can be read, and claimed from, at once
        path = OPENING_PATHS.get(move.command, f"/v1/tickets/{run.ticket_id}:{move.command}")
        if move.command == "claim_next":
            path = f"/v1/queues/{body.pop('queue')}:claim_next"
        if path.startswith("/v1/tickets/"):
            headers["If-Match"] = f'"{run.version - move.behind}"'
        if body.get("dossier_sha256") == DOSSIER:
            body["dossier_sha256"] = self._desk.read(f"/v1/tickets/{run.ticket_id}")["dossier"]["sha256"]
        return self._desk.send(move.who, "POST", path, body, **headers)

    def _answer(self, run: TicketRun, move: Move, reply: Reply) -> str:
        """The answer as the script writes it: what stands in the history since, or how the command was refused."""
        if reply.status not in (200, 201):
            return f"{reply.status} {reply.body.get('code', '-')} {reply.body.get('step') or '-'}"
        run.ticket_id = run.ticket_id or reply.body["ticket_id"]
        run.number, run.queue, run.state = (reply.body[name] or "" for name in ("number", "queue", "state"))
        awaited = run.version + len(move.records.split(", "))  # the mail's outcome is the worker's, and comes later
        history = self.wait_for(lambda: self._history(run), lambda events: len(events) >= awaited)
        new, run.version = history[run.version :], len(history)
        return ", ".join(f"{event['step'] or '-'} {event['type'].removeprefix('Ticket.')}" for event in new)

    def _history(self, run: TicketRun) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self._desk.read(f"/v1/tickets/{run.ticket_id}/history")["items"]
        return events

    def _see_mails(self) -> None:
        for mail in self._desk.mails[self._mails_seen :]:
            self._screen.mail(mail)
            self._mails_seen += 1

    def _see_queues(self, where: str) -> None:
        """The nine queues must hold exactly the tickets that the answers left in them."""
        expected = Counter(run.queue for run in self.runs if run.queue)
        found = self.wait_for(self._queue_sizes, lambda sizes: sizes == expected)
        if found != expected:
            self.deviate(where, f"the queues hold {found} in place of {dict(expected)}")

    def _queue_sizes(self) -> dict[str, int]:
        queues = self._desk.read("/v1/queues")["items"]
        self._screen.queues(queues)
        return {queue["queue"]: queue["size"] for queue in queues if queue["size"]}
