"""What the demo found: a step of the source and its events, a closing and its mail, and the whole report."""

from typing import Any

import msgspec

from api.cli.demo.moves import Step

JsonEvent = dict[str, Any]


class StepEvents(msgspec.Struct, frozen=True):
    """A type of event that recorded a step: the first one, and how many there are."""

    type: str
    number: str
    position: int
    times: int


class StepFound(msgspec.Struct, frozen=True):
    """A step of the source, and what recorded it; `mails` is how many of its closings' mails came in."""

    step: Step
    events: list[StepEvents]
    mails: int | None


class ClosedTicket(msgspec.Struct, frozen=True):
    """A closing, and the mail that it caused."""

    number: str
    position: int
    step: str
    message_id: str | None
    received: bool


class Findings(msgspec.Struct, frozen=True):
    """The whole report."""

    steps: list[StepFound]
    closings: list[ClosedTicket]
    timeline: list[JsonEvent]  # of the ticket with the longest history
    timeline_number: str
    figures: dict[str, int]
    deviations: list[str]
