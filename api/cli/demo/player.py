"""Plays the script on a desk over HTTP, and compares every answer with what the procedure says."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from api.cli.command_errors import CommandError
from api.cli.demo.demo_desk import Desk, Reply
from api.cli.demo.moves import DESK_NAME, Move, Moves, Path
from api.cli.demo.plain_screen import Kind, Screen, ScreenLine

PATIENCE = 15.0
DEMO_POLL_SECONDS = 0.03
OPENING_PATHS = {"receive_request": "/v1/requests", "open_ticket": "/v1/tickets"}


class TicketRun:
    """A ticket under way: what its path's callers know of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ticket_id = self.number = ""
        self.version = 0
        self.standing: tuple[str | None, ...] = (None, None, None)
        self.deviates = False

    @property
    def queue(self) -> str | None:
        """The queue that the ticket must be in."""
        return self.standing[2]


class ExpectedLog(msgspec.Struct, frozen=True):
    """What the script says that the log must hold."""

    ticket_id: str
    version: int
    type: str
    step: str | None


class Player:
    """Plays paths. `deviations` has a line for each answer that is not what the procedure says."""

    def __init__(self, desk: Desk, screen: Screen, pace: float = 0.0) -> None:
        self._desk, self._screen, self._pace = desk, screen, pace
        self._mails_seen, self._patience = 0, PATIENCE
        self.runs: list[TicketRun] = []
        self.records: list[ExpectedLog] = []
        self.deviations: list[str] = []
        self.played = self.refusals = 0

    def play(self, paths: tuple[Path, ...]) -> None:
        """Every request arrives first, so that there are queues to work on; then path by path."""
        self.runs = [TicketRun(path) for path in paths]
        total = len(paths)
        self._screen.heading(f"{total} requests arrive", 0, total)
        for run in self.runs:
            self._play(run, run.path.arrives)
        for number, run in enumerate(self.runs, 1):
            self._screen.heading(run.path.title, number, total)
            self._play(run, run.path.moves)

    def collect_mails(self) -> None:
        """Shows the mails that came in since."""
        new = self._desk.mails[self._mails_seen :]
        self._mails_seen += len(new)
        for mail in new:
            self._screen.mail(mail)

    def deviate(self, where: str, what: str) -> None:
        """Something is not as the procedure says."""
        self.deviations.append(f"{where}: {what}")

    def _play(self, run: TicketRun, moves: Moves) -> None:
        for move in moves:
            if run.deviates:
                return  # what follows would only deviate in turn
            self._give(run, move)
            self.collect_mails()
            self._see_queues(f"{run.number} after {move.command}")
            time.sleep(self._pace)

    def _give(self, run: TicketRun, move: Move) -> None:
        reply = self._await_mail(run) if move.who == DESK_NAME else self._send(run, move)
        wrong = list(_refusal_differs(move, reply) if move.refusal else _answer_differs(run, move, reply))
        self.played += 1
        self.refusals += bool(move.refusal)
        self._note(run, move, reply)
        run.deviates = bool(wrong)
        for what in wrong:
            self.deviate(f"{run.number or run.path.title}, {move.who} {move.command}", what)
        self._screen.line(_line(run, move, reply, wrong))

    def _send(self, run: TicketRun, move: Move) -> Reply:
        body = {name: self._filled(run, value) for name, value in move.body.items()}
        headers = {"Prefer": f"wait={int(self._patience)}"}  # so that queues can be read, and claimed from, at once
        path = OPENING_PATHS.get(move.command, f"/v1/tickets/{run.ticket_id}:{move.command}")
        if move.command == "claim_next":
            path = f"/v1/queues/{body.pop('queue')}:claim_next"
        elif run.ticket_id:
            headers["If-Match"] = f'"{run.version - move.behind}"'
        return self._desk.api.send(move.who, "POST", path, body, **headers)

    def _filled(self, run: TicketRun, value: Any) -> Any:
        if value == "{first}":
            return self.runs[0].ticket_id
        if value == "{dossier}":
            dossier = self._desk.api.send("client", "GET", f"/v1/tickets/{run.ticket_id}").body.get("dossier")
            return dossier["sha256"] if dossier else "0" * 64
        return value

    def _await_mail(self, run: TicketRun) -> Reply:
        """The ticket, once what became of the mail is recorded."""
        ticket = f"/v1/tickets/{run.ticket_id}"
        self.until(lambda: self._desk.api.read(ticket).version > run.version)
        new = self._desk.api.read(f"{ticket}/history").body["items"][run.version :]
        reply = self._desk.api.read(ticket)
        return Reply(reply.status, reply.headers, {**reply.body, "events": new})

    def until(self, holds: Callable[[], bool]) -> bool:
        """Waits until something holds, for as long as it may reasonably take. Returns whether it does."""
        deadline = time.monotonic() + self._patience
        while not holds():
            if time.monotonic() > deadline:
                self._patience = 0.0  # a desk that hangs once is not waited for a hundred times
                return False
            time.sleep(DEMO_POLL_SECONDS)
        return True

    def _note(self, run: TicketRun, move: Move, reply: Reply) -> None:
        """What the caller knows of the ticket now, and what the log must hold."""
        if reply.status not in (200, 201):
            return
        before, run.version = run.version, reply.version
        run.ticket_id, run.number = reply.body.get("ticket_id", ""), reply.body.get("number") or ""
        run.standing = tuple(reply.body.get(name) for name in ("state", "level", "queue"))
        for version, (step, type_) in enumerate(move.events(), before + 1):
            self.records.append(ExpectedLog(run.ticket_id, version, f"Ticket.{type_}", step))

    def _see_queues(self, where: str) -> None:
        """The nine queues must hold exactly the tickets that the script left in them."""
        must = Counter(run.queue for run in self.runs if run.queue)
        found: dict[str, Any] = {}

        def agree() -> bool:
            found.update(self._desk.api.read("/v1/queues").body)
            return Counter({item["queue"]: item["size"] for item in found["items"] if item["size"]}) == must

        if not self.until(agree):
            sizes = {item["queue"]: item["size"] for item in found["items"] if item["size"]}
            self.deviate(where, f"the queues hold {sizes} in place of {dict(must)}")
        if found["open_tickets"] != must.total():
            self.deviate(where, f"{found['open_tickets']} tickets are open in place of {must.total()}")
        self._screen.queues(found["items"])


def _answer_differs(run: TicketRun, move: Move, reply: Reply) -> Iterator[str]:
    """What is wrong with the answer to a command that must succeed."""
    if reply.status not in (200, 201):
        yield f"answered {reply.status} {reply.body.get('code', '')}: {reply.body.get('detail', '')}"
        return
    must = move.events()
    if run.ticket_id and reply.body.get("ticket_id") != run.ticket_id:
        yield f"got ticket {reply.body.get('number')}"
    if "events" in reply.body and (types := _types(reply)) != [type_ for _, type_ in must]:
        yield f"recorded {', '.join(types) or 'nothing'} in place of {move.records}"
    if reply.version != run.version + len(must):
        yield f"stands at version {reply.version} in place of {run.version + len(must)}"
    stands = tuple(reply.body.get(name) for name in ("state", "level", "queue"))
    if stands != (expected := move.standing() or run.standing):
        yield f"stands at {_words(stands)} in place of {_words(expected)}"


def _refusal_differs(move: Move, reply: Reply) -> Iterator[str]:
    """What is wrong with the answer to a command that must be refused."""
    answered = f"{reply.status} {reply.body.get('code', '-')} {reply.body.get('step') or '-'}"
    if answered != move.refusal:
        yield f"answered {answered} in place of {move.refusal}"


def _types(reply: Reply) -> list[str]:
    return [event["type"].removeprefix("Ticket.") for event in reply.body["events"]]


def _words(standing: tuple[str | None, ...]) -> str:
    return " ".join(word or "-" for word in standing)


def _line(run: TicketRun, move: Move, reply: Reply, wrong: list[str]) -> ScreenLine:
    """The move as it is shown."""
    kind: Kind = "done"
    outcome = tuple(type_ for _, type_ in move.events())
    if move.refusal:
        status, code, step = move.refusal.split()
        kind = "refused"
        outcome = (f"{status} {code}" + (f", step {step} comes first" if step != "-" else ""),)
    if wrong:
        kind, outcome = "deviates", tuple(wrong)
    where = run.queue or run.standing[0] or ""
    return ScreenLine(kind, move.steps(), run.number, move.who, move.command, outcome, where)


def put_client(desk: Desk, user_id: str, entry: dict[str, str]) -> None:
    """Puts the client into the directory. Raises CommandError."""
    reply = desk.api.send("intake", "PUT", f"/v1/clients/{user_id}", entry)
    if reply.status not in (200, 201):
        raise CommandError(f"the demo's desk does not take the client ({reply.status}): {reply.body.get('detail')}")
