"""What the queries about tickets may be asked."""

from datetime import datetime
from typing import Annotated

import msgspec

from api.http.paging import Paging
from api.http.problems import Problem
from api.http.read_your_writes import MinPosition, Version
from domain.values import Level, Queue, State

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class TicketParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which earlier state of a ticket is wanted, or which version lists and queues have to hold: one of them."""

    version: Version | None = None
    as_of: Moment | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_version: Version | None = None


def only_one(asked: TicketParameters) -> TicketParameters:
    """The parameters. Raises Problem with status 400 when there are several."""
    if sum(value is not None for value in msgspec.structs.astuple(asked)) > 1:
        detail = "Name one of version, as_of, position and min_version, not several."
        raise Problem(400, "invalid_parameter", detail)
    return asked


class HistoryParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version lists and queues have to hold."""

    min_version: Version | None = None


class ListParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of tickets."""

    client_user_id: str | None = None
    state: State | None = None
    level: Level | None = None
    queue: Queue | None = None
    assignee: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    q: str | None = None
    min_position: MinPosition = None
