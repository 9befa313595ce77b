"""The rows of the procedure's commands, made of the commands themselves."""

from inspect import getdoc

from api.http.resources.ticket_commands import COMMANDS_WITHOUT_VERSION
from api.openapi.error_codes import REFUSED
from api.openapi.operation import Endpoint, Struct
from application.commands.command import Command, Opening
from application.commands.deciding import Answer
from application.commands.procedure_commands import COMMANDS, OpenTicket, ReceiveRequest
from domain.roles import MAY, Condition, anywhere

CORRELATION_HEADERS = ("X-Correlation-Id", "traceparent")
COMMAND_HEADERS = ("Idempotency-Key", "Prefer", *CORRELATION_HEADERS)
ANSWER_HEADERS = ("ETag", "Preference-Applied", "Idempotency-Replayed")
UNACCEPTABLE = {
    "open_ticket": ("unknown_client",),
    "identify_client": ("unknown_client",),
    "link": ("link_to_self", "unknown_other_ticket"),
    "assign": ("unknown_assignee", "assignee_lacks_role"),
    "reopen": ("confirmation_missing",),
    "correct_client": ("unknown_client",),
}


# Whoever reads only the names takes these for what they are.
OPERATION_NAMES = {"OpenTicket": "create_ticket", "CreateTicket": "create_ticket_from_request"}


def operation_name(kind: Struct) -> str:
    """The name of an operation, from its command's: "EscalateTicket" is escalate_ticket."""
    if name := OPERATION_NAMES.get(kind.__name__):
        return name
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


def may(name: str) -> tuple[str, ...]:
    """Who may give a command, in words."""
    return tuple(str(role) if rule is anywhere else f"{role}: {in_words(rule)}" for role, rule in MAY[name])


def in_words(rule: Condition) -> str:
    """A condition as its docstring has it, to stand in a list."""
    return (getdoc(rule) or "").rstrip(".").lower()


def command_endpoint(kind: type[Command]) -> Endpoint:
    """A command on a ticket that is there."""
    free = kind.name in COMMANDS_WITHOUT_VERSION
    return Endpoint(
        name=operation_name(kind),
        method="POST",
        path=f"/v1/tickets/{{ticket_id}}:{kind.name}",
        tag="Commands",
        says=getdoc(kind) or "",
        who=may(kind.name),
        body=kind,
        takes=("If-Match", *COMMAND_HEADERS) if free else COMMAND_HEADERS,
        needs=() if free else ("If-Match",),
        answers={200: Answer},
        gives=ANSWER_HEADERS,
        refuses={**REFUSED, 422: UNACCEPTABLE.get(kind.name, ())},
    )


def opening(kind: type[Opening], path: str) -> Endpoint:
    """A command that begins a ticket."""
    return Endpoint(
        name=operation_name(kind),
        method="POST",
        path=path,
        tag="Requests",
        says=getdoc(kind) or "",
        who=may(kind.name),
        body=kind,
        takes=COMMAND_HEADERS,
        answers={201: Answer},
        gives=("Location", *ANSWER_HEADERS),
        refuses={422: UNACCEPTABLE.get(kind.name, ())},
    )


COMMAND_ENDPOINTS = (
    opening(ReceiveRequest, "/v1/requests"),
    opening(OpenTicket, "/v1/tickets"),
    *(command_endpoint(kind) for kind in COMMANDS.values()),
)
