"""What an operation of the API is: one row of the contract; and the rows that every command gets."""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.paging import JSON, NoParameters
from api.http.resources.ticket_commands import COMMANDS_WITHOUT_VERSION
from api.openapi import error_codes
from api.openapi.sample_ticket import story
from application.commands.command import Command, Opening
from application.commands.deciding import Answer
from application.commands.procedure_commands import COMMANDS
from domain.procedure import POSSIBLE_BY
from domain.roles import MAY

Struct = type[msgspec.Struct]
CORRELATION_HEADERS = ("X-Correlation-Id", "traceparent")
COMMAND_HEADERS = ("Idempotency-Key", "Prefer", *CORRELATION_HEADERS)
ANSWER_HEADERS = ("ETag", "Preference-Applied", "Idempotency-Replayed")
CREATED_HEADERS = ("Location", *ANSWER_HEADERS)


class ResponseSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no problem. A `shape` of None is an answer without a body.

    `others` are the forms beside the one of `media` that a reader can ask for, with their shapes. A name in `headers`
    ends with "?" where the header is there now and then.
    """

    status: int = 200
    says: str
    shape: Any = None
    headers: tuple[str, ...] = ()
    media: str = JSON
    others: Mapping[str, Any] = {}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One operation.

    `who` are the roles that may, in words where a condition stands with them; without any, no key is needed.
    `headers` are those that it takes, `needs` those that it cannot do without. `leads_to` names the operations that
    its answer leads to, as the contract's links.
    """

    name: str
    method: str = "GET"
    path: str
    tag: str
    summary: str
    says: str
    who: tuple[str, ...] = ()
    query: Struct = NoParameters
    body: Struct | None = None
    headers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    replies: tuple[ResponseSpec, ...]
    problems: error_codes.Codes
    leads_to: tuple[str, ...] = ()


def one_paragraph(text: str | None) -> str:
    """A docstring as one paragraph."""
    return " ".join((text or "").split())


def operation_name(kind: Struct) -> str:
    """The name of an operation, from its command's: "EscalateTicket" is escalate_ticket."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


def may(name: str) -> tuple[str, ...]:
    """Who may give a command, in words."""
    return tuple(
        str(role) if rule.__name__ == "anywhere" else f"{role}: {one_paragraph(rule.__doc__).rstrip('.').lower()}"
        for role, rule in MAY[name]
    )


def after(name: str) -> tuple[str, ...]:
    """The operations that are possible after a command, as the story has it."""
    possible = POSSIBLE_BY[story()[name].outcome.ticket.state]
    return ("get_ticket", "get_ticket_history", *(operation_name(COMMANDS[command]) for command in possible))


def command_endpoint(kind: type[Command], *unacceptable: str) -> Endpoint:
    """A command on a ticket that is there; `unacceptable` are codes of its own with status 422."""
    free = kind.name in COMMANDS_WITHOUT_VERSION
    groups = (
        error_codes.EVERYWHERE,
        error_codes.TICKET_CODES,
        error_codes.REFUSED,
        error_codes.BODY,
        error_codes.ONCE,
        error_codes.VERSION_CODES,
        {422: unacceptable},
    )
    return Endpoint(
        name=operation_name(kind),
        method="POST",
        path=f"/v1/tickets/{{ticket_id}}:{kind.name}",
        tag="Commands",
        summary=kind.name.replace("_", " ").capitalize(),
        says=one_paragraph(kind.__doc__),
        who=may(kind.name),
        body=kind,
        headers=("If-Match", *COMMAND_HEADERS),
        needs=() if free else ("If-Match",),
        replies=(ResponseSpec(says="What is new, and what can be done now.", shape=Answer, headers=ANSWER_HEADERS),),
        problems=error_codes.together(*groups),
        leads_to=after(kind.name),
    )


def opening(kind: type[Opening], path: str, *unacceptable: str) -> Endpoint:
    """A command that begins a ticket."""
    return Endpoint(
        name=operation_name(kind),
        method="POST",
        path=path,
        tag="Requests",
        summary=kind.name.replace("_", " ").capitalize(),
        says=one_paragraph(kind.__doc__),
        who=may(kind.name),
        body=kind,
        headers=COMMAND_HEADERS,
        replies=(
            ResponseSpec(status=201, says="The ticket, with its address.", shape=Answer, headers=CREATED_HEADERS),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.BODY, error_codes.ONCE, {422: unacceptable}),
        leads_to=after(kind.name),
    )
