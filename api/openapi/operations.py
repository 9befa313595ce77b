"""The table of endpoints: every operation with what it takes, what it answers, and what it refuses.

`/openapi.json` is this table, written with the schemas of the very structs that decode and encode.
"""

from typing import Any

from api.http.paging import JSON, NoFields
from api.http.resources.client_resources import ClientEntry, PageParameters
from api.http.resources.event_resources import EventPage, FeedParameters
from api.http.resources.queue_resources import OverviewParameters, QueueParameters, QueueTickets
from api.http.resources.report_resources import MetricList, ReportParameters
from api.http.resources.ticket_resources import History, HistoryParameters, ListParameters, TicketList, TicketParameters
from api.http.streaming.event_formats import CLOUD_EVENTS, NDJSON, SSE, CloudEvent
from api.openapi.command_operations import ANSWER_HEADERS, COMMAND_ENDPOINTS, COMMAND_HEADERS, CORRELATION_HEADERS, may
from api.openapi.operation import Endpoint, content
from api.openapi.service_operations import OPERATION_ENDPOINTS
from api.openapi.webhook_operations import WEBHOOK_ENDPOINTS
from application.commands.supporting_commands import RegisterClient
from domain.client import Client
from domain.roles import MAY_READ, QUEUE_WORKERS
from projections.queries.queue_pages import Overview
from projections.queries.ticket_view import TicketView
from projections.reports.report_figures import Report

TAGS = {
    "Requests": "How tickets begin.",
    "Commands": "One operation for each command of the procedure. What the procedure forbids is refused with 409: the"
    " refusal names the rule, the step that is missing, and the commands that are possible now.",
    "Tickets": "One ticket, its history, and the list of tickets.",
    "Queues": "What waits where, and the next ticket for whoever asks.",
    "Clients": "The client directory.",
    "Events": "Everything that happened, in the one order of all events.",
    "Webhooks": "Who is told of events, and what became of it. What is sent is signed as Standard Webhooks have it.",
    "Reports": "What is measured, and the figures.",
    "Operations": "For those who run the desk.",
    "Contract": "This description, for programs and for people.",
}

ENDPOINTS: tuple[Endpoint, ...] = (
    *COMMAND_ENDPOINTS,
    Endpoint(
        name="list_tickets",
        path="/v1/tickets",
        says="The tickets that fit, newest first. A client gets the own ones; a reporter gets no free text.",
        who=MAY_READ["tickets"],
        query=ListParameters,
        answers={200: TicketList},
        refuses={404: ("unknown_user_id",)},
    ),
    Endpoint(
        name="get_ticket",
        path="/v1/tickets/{ticket_id}",
        says="The ticket now, and what the caller may do with it; with `version`, `as_of` or `position` as it stood"
        " then; with `min_version` as soon as lists and queues hold that version. One of the four, not several.",
        who=MAY_READ["ticket"],
        query=TicketParameters,
        answers={200: TicketView},
        gives=("ETag", "Deskledger-Position?"),
    ),
    Endpoint(
        name="get_ticket_history",
        path="/v1/tickets/{ticket_id}/history",
        says="Every event, oldest first, in words. A client gets the client-visible ones of an own ticket. With"
        " `min_version`, as soon as the events up to that version have their position.",
        who=MAY_READ["ticket"],
        query=HistoryParameters,
        answers={200: History},
        gives=("ETag", "Deskledger-Position"),
    ),
    Endpoint(
        name="list_queues",
        path="/v1/queues",
        says="Nine queues with size, unassigned, oldest entry and sizes by priority. An open ticket is in exactly one.",
        who=MAY_READ["queues"],
        query=OverviewParameters,
        answers={200: Overview},
    ),
    Endpoint(
        name="list_queue_tickets",
        path="/v1/queues/{queue}",
        says="Its tickets in the order of work: by priority, then by entry. With `as_of`, alone, as it stood then.",
        who=MAY_READ["queues"],
        query=QueueParameters,
        answers={200: QueueTickets},
    ),
    Endpoint(
        name="claim_next_ticket",
        method="POST",
        path="/v1/queues/{queue}:claim_next",
        says="Assigns its first unassigned ticket to the caller. Two callers never get the same one. 204: none waits.",
        who=("agent: of that level", *(f"{role}: {queue}" for queue, role in QUEUE_WORKERS.items())),
        body=NoFields,
        takes=COMMAND_HEADERS,
        answers={200: TicketView, 204: None},
        gives=ANSWER_HEADERS,
    ),
    Endpoint(
        name="register_client",
        method="PUT",
        path="/v1/clients/{user_id}",
        says="Makes the directory say this of the user ID; 201 where it is new. The same entry again records nothing."
        " With `If-Match` only at that version, with `If-None-Match: *` only where it is new; else 412. Not both.",
        who=may("register_client"),
        body=RegisterClient,
        takes=("If-Match", "If-None-Match", *CORRELATION_HEADERS),
        answers={200: Client, 201: Client},
        gives=("ETag", "Location"),
        refuses={400: ("bad_if_none_match",)},
    ),
    Endpoint(
        name="get_client",
        path="/v1/clients/{user_id}",
        says="The directory entry and a page of the client's tickets. A client gets the own one.",
        who=MAY_READ["client"],
        query=PageParameters,
        answers={200: ClientEntry},
        gives=("ETag",),
        refuses={404: ("unknown_user_id",)},
    ),
    Endpoint(
        name="list_events",
        path="/v1/events",
        says="The events after a position, in the form that `Accept` names: a page of JSON or of CloudEvents, or a"
        " stream of lines of JSON or of server-sent events, as long as there are events. `after` of a page is the"
        ' position to ask from next. A line `{"position": n}` says that everything up to n has been looked at.',
        who=MAY_READ["events"],
        query=FeedParameters,
        takes=("Last-Event-ID",),
        answers={200: {JSON: EventPage, CLOUD_EVENTS: list[CloudEvent], NDJSON: str, SSE: str}},
        gives=("Link", "Deskledger-After", "Deskledger-Log"),
    ),
    Endpoint(
        name="list_metrics",
        path="/v1/reports",
        says="Every metric with its definition, formula, population and unit.",
        who=MAY_READ["reports"],
        answers={200: MetricList},
    ),
    Endpoint(
        name="get_report",
        path="/v1/reports/{metric}",
        says="One cell for each group: from the beginning and up to now, unless `from` and `to` say otherwise. The"
        " figures up to a `to` never change; without one, `to` is null, and they do.",
        who=MAY_READ["reports"],
        query=ReportParameters,
        answers={200: Report},
    ),
    *WEBHOOK_ENDPOINTS,
    *OPERATION_ENDPOINTS,
)


def media_by_path() -> dict[str, tuple[str, ...]]:
    """What each address answers with, for whoever looks at Accept."""
    found: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        for answer in endpoint.answers.values():
            found.setdefault(endpoint.path, {}).update(content(answer))
    return {path: tuple(found[path]) for path in found}
