"""What an auditor finds afterwards: is every step of the procedure in the log, and did every closing bring a mail?"""

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

from api.cli.demo.demo_desk import Desk
from api.cli.demo.demo_results import ClosedTicket, Findings, JsonEvent, StepEvents, StepFound
from api.cli.demo.moves import PROCEDURE_STEPS, Step
from api.cli.demo.player import Player

CLOSING_STEPS = frozenset(step.number for step in PROCEDURE_STEPS if "Closed" in step.must)


class Audit:
    """Reads the log as the auditor does, and holds it against the source and the script."""

    def __init__(self, desk: Desk, player: Player) -> None:
        self._desk, self._player = desk, player
        self._events: list[JsonEvent] = []

    def findings(self) -> Findings:
        """The report; whatever deviates is added to the player's deviations."""
        self._player.until(self._is_settled)
        self._player.collect_mails()
        closings = [self._closing(event) for event in self._of_type("Closed")]
        steps = [self._step(step, closings) for step in PROCEDURE_STEPS]
        for what in self._deviations(steps, closings):
            self._player.deviate("the auditor's log", what)
        numbers = Counter(event["ticket_id"] for event in self._tickets())
        longest = max(numbers, key=lambda ticket: numbers[ticket], default="")
        timeline = self._desk.api.read(f"/v1/tickets/{longest}/history").body["items"] if longest else []
        deviations = self._player.deviations
        return Findings(steps, closings, timeline, self._number(longest), self._figures(closings), deviations)

    def _is_settled(self) -> bool:
        """Whether every closing has its outcome in the log, and its mail is here."""
        self._events = list(self._feed())
        return all(self._closing(event).received for event in self._of_type("Closed"))

    def _feed(self) -> Iterator[JsonEvent]:
        after: str | None = "0"
        while after is not None:
            page = self._desk.api.read(f"/v1/events?limit=200&after={after}").body
            yield from page["items"]
            after = page["next"]

    def _tickets(self) -> list[JsonEvent]:
        return [event for event in self._events if event["ticket_id"]]

    def _of_type(self, type_: str) -> list[JsonEvent]:
        return [event for event in self._events if event["type"] == f"Ticket.{type_}"]

    def _number(self, ticket_id: str) -> str:
        return next((run.number for run in self._player.runs if run.ticket_id == ticket_id), "")

    def _closing(self, closed: JsonEvent) -> ClosedTicket:
        sent = (
            event["data"]["message_id"]
            for event in self._of_type("ClosureEmailSent")
            if (event["ticket_id"], event["data"]["closed_version"]) == (closed["ticket_id"], closed["version"])
        )
        message_id = next(sent, None)
        received = message_id in {mail["Message-ID"] for mail in self._desk.mails}
        number = self._number(closed["ticket_id"])
        return ClosedTicket(number, closed["position"], closed["step"], message_id, received)

    def _step(self, step: Step, closings: list[ClosedTicket]) -> StepFound:
        found = []
        for type_ in (*step.must, *step.may):
            events = [event for event in self._of_type(type_) if event["step"] == step.number]
            if events:
                first = events[0]
                found.append(StepEvents(type_, self._number(first["ticket_id"]), first["position"], len(events)))
        mails = sum(closing.received for closing in closings if closing.step == step.number)
        return StepFound(step, found, mails if step.number in CLOSING_STEPS else None)

    def _deviations(self, steps: list[StepFound], closings: list[ClosedTicket]) -> Iterator[str]:
        for found in steps:
            for type_ in set(found.step.must) - {event.type for event in found.events}:
                yield f"step {found.step.number} has no {type_}"
            if found.mails == 0:
                yield f"step {found.step.number} brought no mail"
        for closing in closings:
            if not closing.received:
                yield f"{closing.number} was closed at {closing.position}, but no mail came in"
        if len(self._desk.mails) != len(closings):
            yield f"{len(closings)} closings brought {len(self._desk.mails)} mails"
        yield from self._script_differs()
        yield from self._dossiers_differ()
        positions = [event["position"] for event in self._events]
        if positions != list(range(1, len(positions) + 1)):
            yield "the positions are not 1, 2, 3 and so on"

    def _script_differs(self) -> Iterator[str]:
        """The log must hold what the script says, event by event, and nothing else but what became of the mails."""
        log = {(event["ticket_id"], event["version"]): event for event in self._tickets()}
        for record in self._player.records:
            event = log.pop((record.ticket_id, record.version), None)
            where = f"{self._number(record.ticket_id)} version {record.version}"
            if event is None:
                yield f"{where} is missing: {record.type}"
            elif (event["type"], event["step"]) != (record.type, record.step):
                yield f"{where} is {event['type']} of step {event['step']}, not {record.type} of step {record.step}"
        for event in log.values():
            if event["type"] != "Ticket.ClosureEmailSent" or event["step"] not in CLOSING_STEPS:
                yield f"{self._number(event['ticket_id'])} version {event['version']} is one too many: {event['type']}"

    def _dossiers_differ(self) -> Iterator[str]:
        """Step 16: a dossier holds all activity so far under its hash, and the NOC gets only what was approved."""
        current: dict[str, str] = {}
        for event in self._tickets():
            ticket, type_, body = event["ticket_id"], event["type"], event["data"]
            where = f"{self._number(ticket)} version {event['version']}"
            if type_ == "Ticket.DossierCompiled":
                if len(body["lines"]) != event["version"] - 1:
                    yield f"{where}: the dossier has {len(body['lines'])} lines"
                if sha256("\n".join(body["lines"]).encode()).hexdigest() != body["sha256"]:
                    yield f"{where}: the dossier's hash is another"
                current[ticket] = body["sha256"]
            elif type_ == "Ticket.ClientApproved" and body["dossier_sha256"] == current.get(ticket):
                current[ticket] = "approved"
            elif type_ == "Ticket.Routed" and body["to"] == "noc" and current.get(ticket) != "approved":
                yield f"{where}: the NOC got it without the client's approval of the dossier"

    def _figures(self, closings: list[ClosedTicket]) -> dict[str, int]:
        return {
            "paths": len(self._player.runs),
            "commands": self._player.played,
            "refused as they must be": self._player.refusals,
            "events": len(self._events),
            "closings": len(closings),
            "mails received": len(self._desk.mails),
            "deviations": len(self._player.deviations),
        }
