"""The table of endpoints: every operation with what it takes, what it answers, and what it refuses.

`/openapi.json` is this table, written with the schemas of the very structs that decode and encode.
"""

from api.http.paging import NoFields
from api.http.resources.client_resources import ClientEntry, PageParameters
from api.http.resources.event_resources import EventPage, FeedParameters
from api.http.resources.queue_resources import OverviewParameters, QueueParameters, QueueTickets
from api.http.resources.report_resources import MetricList, ReportParameters
from api.http.resources.ticket_resources import History, HistoryParameters, ListParameters, TicketList, TicketParameters
from api.http.streaming.event_formats import CLOUD_EVENTS, NDJSON, SSE, CloudEvent
from api.openapi import error_codes
from api.openapi.operation import (
    ANSWER_HEADERS,
    COMMAND_HEADERS,
    CORRELATION_HEADERS,
    Endpoint,
    ResponseSpec,
    after,
    command_endpoint,
    may,
    opening,
)
from api.openapi.service_operations import OPERATION_ENDPOINTS
from api.openapi.webhook_operations import WEBHOOK_ENDPOINTS
from application.commands.procedure_commands import COMMANDS, OpenTicket, ReceiveRequest
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
UNACCEPTABLE = {"identify_client": ("unknown_client",), "link": ("link_to_self", "unknown_other_ticket")}
POSITION_HEADERS = ("Deskledger-Position", "Preference-Applied")
LIST_HEADERS = (*POSITION_HEADERS, "Link")

COMMAND_ENDPOINTS = (
    opening(ReceiveRequest, "/v1/requests"),
    opening(OpenTicket, "/v1/tickets", "unknown_client"),
    *(command_endpoint(kind, *UNACCEPTABLE.get(name, ())) for name, kind in COMMANDS.items()),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    *COMMAND_ENDPOINTS,
    Endpoint(
        name="list_tickets",
        path="/v1/tickets",
        tag="Tickets",
        summary="List tickets",
        says="The tickets that fit, newest first. A client gets the own ones; a reporter gets no free text.",
        who=tuple(MAY_READ["tickets"]),
        query=ListParameters,
        headers=("Prefer",),
        replies=(ResponseSpec(says="A page of tickets.", shape=TicketList, headers=LIST_HEADERS),),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.LISTED, error_codes.FRESHNESS_CODES, {404: ("unknown_user_id",)}
        ),
        leads_to=("get_ticket", "get_ticket_history"),
    ),
    Endpoint(
        name="get_ticket",
        path="/v1/tickets/{ticket_id}",
        tag="Tickets",
        summary="Read a ticket",
        says="The ticket now, and what the caller may do with it; with `version`, `as_of` or `position` as it stood"
        " then. With `min_version`, as soon as lists and queues hold that version. One of the four, not several.",
        who=tuple(MAY_READ["ticket"]),
        query=TicketParameters,
        headers=("Prefer",),
        replies=(
            ResponseSpec(
                says="The ticket. `Deskledger-Position` is there when it is of the past.",
                shape=TicketView,
                headers=("ETag", "Deskledger-Position?", "Preference-Applied"),
            ),
        ),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.TICKET_CODES, error_codes.FRESHNESS_CODES, {404: ("unknown_version",)}
        ),
        leads_to=("approve_dossier", "decline_dossier", *after("route")),
    ),
    Endpoint(
        name="get_ticket_history",
        path="/v1/tickets/{ticket_id}/history",
        tag="Tickets",
        summary="Read a ticket's history",
        says="Every event, oldest first, in words. A client gets the client-visible ones of an own ticket. With"
        " `min_version`, as soon as the events up to that version have their position.",
        who=tuple(MAY_READ["ticket"]),
        query=HistoryParameters,
        headers=("Prefer",),
        replies=(
            ResponseSpec(
                says="The history, whole.", shape=History, headers=("ETag", "Deskledger-Position", "Preference-Applied")
            ),
        ),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.TICKET_CODES, error_codes.FRESHNESS_CODES, {404: ("unknown_version",)}
        ),
    ),
    Endpoint(
        name="list_queues",
        path="/v1/queues",
        tag="Queues",
        summary="See every queue at a glance",
        says="Nine queues with size, unassigned, oldest entry and sizes by priority. An open ticket is in exactly one.",
        who=tuple(MAY_READ["queues"]),
        query=OverviewParameters,
        headers=("Prefer",),
        replies=(ResponseSpec(says="The queues.", shape=Overview, headers=POSITION_HEADERS),),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.FRESHNESS_CODES),
    ),
    Endpoint(
        name="list_queue",
        path="/v1/queues/{queue}",
        tag="Queues",
        summary="Read a queue",
        says="Its tickets in the order in which they are worked: by priority, then by time of entry. With `as_of`, as"
        " it stood then; that takes no other filter.",
        who=tuple(MAY_READ["queues"]),
        query=QueueParameters,
        headers=("Prefer",),
        replies=(ResponseSpec(says="A page of the queue.", shape=QueueTickets, headers=LIST_HEADERS),),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.LISTED, error_codes.FRESHNESS_CODES, {404: ("unknown_queue",)}
        ),
        leads_to=("get_ticket", "get_ticket_history"),
    ),
    Endpoint(
        name="claim_next_ticket",
        method="POST",
        path="/v1/queues/{queue}:claim_next",
        tag="Queues",
        summary="Claim the next ticket",
        says="Assigns the first unassigned ticket of the queue to the caller. Two callers never get the same one.",
        who=("agent: of that level", *(f"{role}: {queue}" for queue, role in QUEUE_WORKERS.items())),
        body=NoFields,
        headers=COMMAND_HEADERS,
        replies=(
            ResponseSpec(says="The ticket that the caller has now.", shape=TicketView, headers=ANSWER_HEADERS),
            ResponseSpec(status=204, says="Nobody waits there."),
        ),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.BODY, error_codes.ONCE, {404: ("unknown_queue",)}
        ),
        leads_to=after("route"),
    ),
    Endpoint(
        name="register_client",
        method="PUT",
        path="/v1/clients/{user_id}",
        tag="Clients",
        summary="Register a client",
        says="Makes the directory say this of the user ID. The same entry again records nothing.",
        who=may("register_client"),
        body=RegisterClient,
        headers=CORRELATION_HEADERS,
        replies=(
            ResponseSpec(says="The entry as it stands now.", shape=Client, headers=("ETag", "Location")),
            ResponseSpec(
                status=201, says="The new entry, with its address.", shape=Client, headers=("ETag", "Location")
            ),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.BODY),
        leads_to=("open_ticket", "get_client"),
    ),
    Endpoint(
        name="get_client",
        path="/v1/clients/{user_id}",
        tag="Clients",
        summary="Read a client",
        says="The directory entry and the client's tickets. A client gets the own one.",
        who=tuple(MAY_READ["client"]),
        query=PageParameters,
        headers=("Prefer",),
        replies=(
            ResponseSpec(
                says="The entry and a page of its tickets.", shape=ClientEntry, headers=("ETag", *LIST_HEADERS)
            ),
        ),
        problems=error_codes.together(
            error_codes.EVERYWHERE, error_codes.LISTED, error_codes.FRESHNESS_CODES, {404: ("unknown_user_id",)}
        ),
    ),
    Endpoint(
        name="list_events",
        path="/v1/events",
        tag="Events",
        summary="Follow the log",
        says="The events after a position, in the form that `Accept` names: a page of JSON or of CloudEvents, or a"
        " stream of lines of JSON or of server-sent events, as long as there are events. `after` of a page is the"
        ' position to ask from next. A line `{"position": n}` says that everything up to n has been looked at.',
        who=tuple(MAY_READ["events"]),
        query=FeedParameters,
        headers=("Prefer", "Last-Event-ID"),
        replies=(
            ResponseSpec(
                says="Some events, in order.",
                shape=EventPage,
                headers=(*LIST_HEADERS, "Deskledger-After"),
                others={CLOUD_EVENTS: list[CloudEvent], NDJSON: str, SSE: str},
            ),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.FRESHNESS_CODES, error_codes.STREAMED),
    ),
    Endpoint(
        name="list_metrics",
        path="/v1/reports",
        tag="Reports",
        summary="Read what is measured",
        says="Every metric with its definition, formula, population and unit.",
        who=tuple(MAY_READ["reports"]),
        replies=(ResponseSpec(says="The metrics.", shape=MetricList),),
        problems=error_codes.together(error_codes.EVERYWHERE),
    ),
    Endpoint(
        name="get_report",
        path="/v1/reports/{metric}",
        tag="Reports",
        summary="Read a metric's figures",
        says="One cell for each group: from the beginning and up to now, unless `from` and `to` say otherwise.",
        who=tuple(MAY_READ["reports"]),
        query=ReportParameters,
        headers=("Prefer",),
        replies=(ResponseSpec(says="The figures.", shape=Report, headers=POSITION_HEADERS),),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.FRESHNESS_CODES, {404: ("unknown_metric",)}),
    ),
    *WEBHOOK_ENDPOINTS,
    *OPERATION_ENDPOINTS,
)

# What each address answers with, for whoever looks at Accept.
MEDIA: dict[str, tuple[str, ...]] = {}
for _endpoint in ENDPOINTS:
    for _reply in _endpoint.replies:
        if _reply.shape is not None:
            _forms = (*MEDIA.get(_endpoint.path, ()), _reply.media, *_reply.others)
            MEDIA[_endpoint.path] = tuple(dict.fromkeys(_forms))
