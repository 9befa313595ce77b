"""The examples and the links of the contract: what the story shows of each operation, and where its answer leads."""

from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import msgspec

from api.http.paging import JSON
from api.http.resources.client_resources import ClientEntry, ClientTickets
from api.http.resources.closure_mail_resources import ClosureMailList
from api.http.resources.event_resources import EventPage
from api.http.resources.queue_resources import QueueTickets
from api.http.resources.report_resources import MetricList, metric_words
from api.http.resources.service.contract_resources import HTML, JAVASCRIPT
from api.http.resources.service.health_resources import Alive, Ready
from api.http.resources.service.metrics_resource import OPENMETRICS
from api.http.resources.ticket_resources import History, TicketList
from api.http.resources.webhook_admin.webhook_messages import DeliveryList, WebhookList, WebhookWithSecret
from api.http.streaming.event_formats import (
    CLOUD_EVENTS,
    NDJSON,
    SENT,
    SSE,
    as_cloud_event,
    as_line,
    as_sent,
    passed_line,
    passed_sent,
)
from api.openapi.operation import Endpoint, ResponseSpec
from api.openapi.sample_ticket import BEGIN, REGISTRATION, SAMPLE_NUMBER, SAMPLE_USER_ID, TICKET_ID, registration, story
from application.commands.procedure_commands import COMMANDS, OPENINGS
from application.observability.metrics import LOG_POSITION as POSITION_METRIC
from application.webhooks.delivery import DeliveryRow
from application.webhooks.subscriptions import WebhookView
from domain.values import Queue
from projections.queries.closure_mail_list import MailRow
from projections.queries.event_feed import FeedItem
from projections.queries.queue_pages import Overview, QueueOverview, QueueRow
from projections.queries.ticket_list import TicketRow
from projections.queries.ticket_view import event_view, ticket_view
from projections.reports.report_figures import Cell, Report
from projections.reports.report_metrics import REPORT_METRICS

EXAMPLE_POSITION = 4711
LIST_OPERATIONS = ("list_tickets", "list_queue")


HOOK = WebhookView(
    id=UUID("5f0c2b1e-6a1d-4f3c-9a52-3f1b0a7e9c11"),
    url="https://example.org/in",
    description="Tells the asset register what was closed",
    types=["Ticket.Closed"],
    ticket_id=None,
    client_user_id=None,
    actor=None,
    level=None,
    enabled=True,
    disabled_at=None,
    disabled_reason=None,
    position=EXAMPLE_POSITION,
    old_secret_until=None,
    created_at=BEGIN,
    created_by="key_admin",
)


@cache
def body_examples() -> dict[str, Any]:
    """The body of each operation that takes one, by the name of its struct."""
    steps = story()
    return {
        **{kind.__name__: steps[kind.name].body for kind in OPENINGS},
        **{kind.__name__: steps[kind.name].body for kind in COMMANDS.values()},
        "RegisterClient": REGISTRATION,
        "NoFields": {},
        "CreateWebhook": {"url": HOOK.url, "types": HOOK.types, "description": HOOK.description},
        "ChangeWebhook": {"types": ["Ticket.Created", "Ticket.Closed"]},
        "DisableWebhook": {"reason": "The receiver moves house."},
        "RotateSecret": {"overlap_hours": 24},
        "Replay": {"after": 0},
    }


@cache
def answer_examples() -> dict[str, Any]:
    """The answer of each operation that answers JSON, by its name and status."""
    steps, (client, _) = story(), registration()
    closed, routed = steps["close"].outcome, steps["route"].outcome
    ticket, issue = routed.ticket, routed.ticket.issue
    summary, category = (issue.summary, issue.category) if issue else (None, None)
    row = TicketRow(
        ticket.ticket_id, ticket.number, ticket.version, ticket.state, ticket.level, ticket.qualification, ticket.queue,
        SAMPLE_USER_ID, ticket.channel, summary, category, ticket.priority, None, False, 0, ticket.created_at,
        ticket.updated_at, None, None,
    )  # fmt: skip
    queue_row = QueueRow(
        ticket.ticket_id, ticket.number, ticket.version, ticket.state, ticket.qualification, ticket.priority, summary,
        SAMPLE_USER_ID, None, False, ticket.updated_at, 0,
    )  # fmt: skip
    begun = [event for name in ("receive_request", "identify_client", "create") for event in steps[name].outcome.events]
    events = [event_view(EXAMPLE_POSITION + place, recorded) for place, recorded in enumerate(begun)]
    glance = [QueueOverview(queue, 0, 0, None, {}) for queue in Queue]
    glance[1] = QueueOverview(Queue.TIER1, 1, 1, ticket.updated_at, {"2": 1})
    metric, until = REPORT_METRICS[0], BEGIN + timedelta(days=1)
    words = (metric.name, metric.definition, metric.formula, metric.population, metric.unit)
    mail = MailRow(
        TICKET_ID, closed.ticket.version, "<closing.2a.17@example.org>", "sent", 1, BEGIN, None, BEGIN, BEGIN
    )
    claimed = ticket_view(steps["assign"].outcome.ticket, steps["assign"].outcome.possible)
    contact = msgspec.structs.asdict(client)
    return {
        "list_tickets 200": TicketList([row], None),
        "get_ticket 200": ticket_view(closed.ticket, closed.possible),
        "get_ticket_history 200": History(events, None),
        "list_queues 200": Overview(glance, 1, EXAMPLE_POSITION),
        "list_queue 200": QueueTickets([queue_row], None),
        "claim_next_ticket 200": claimed,
        "register_client 200": client,
        "register_client 201": client,
        "get_client 200": ClientEntry(**contact, tickets=ClientTickets([row], None)),
        "list_events 200": EventPage(events, None, EXAMPLE_POSITION + 2),
        "list_metrics 200": MetricList([metric_words(metric)], None),
        "get_report 200": Report(*words, BEGIN, until, [], EXAMPLE_POSITION, [Cell(0.8, 4, 5, 5)]),
        "list_closure_mails 200": ClosureMailList([mail], None),
        **webhook_examples(),
        "get_liveness 200": Alive(),
        "get_readiness 200": Ready(
            [], EXAMPLE_POSITION, 0.0, {"queue_stays": 0}, {"queue_stays": 0.0}, {"queue_stays": 0}
        ),
    }


def webhook_examples() -> dict[str, Any]:
    """The answers about webhooks."""
    secret = WebhookWithSecret(**msgspec.structs.asdict(HOOK), secret="whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")  # noqa: S106
    sent = DeliveryRow(
        9, EXAMPLE_POSITION, "Ticket.Closed", "delivered", 1, None, None, BEGIN, 204, None, 12, BEGIN, BEGIN
    )
    named = ("get_webhook", "change_webhook", "enable_webhook", "disable_webhook", "replay_webhook", "ping_webhook")
    return {
        **{f"{name} 200": HOOK for name in named},
        "create_webhook 201": secret,
        "rotate_webhook_secret 200": secret,
        "list_webhooks 200": WebhookList([HOOK], None),
        "list_webhook_deliveries 200": DeliveryList([sent], None),
    }


def body_example(endpoint: Endpoint) -> dict[str, Any]:
    """The example of an operation's body, named for the story of one ticket."""
    kind = endpoint.body.__name__ if endpoint.body else ""
    return {"story": {"summary": f"As for ticket {SAMPLE_NUMBER}", "value": body_examples()[kind]}}


def answer_example(endpoint: Endpoint, reply: ResponseSpec) -> Any:
    """The example of an answer as JSON; None where it is no JSON of ours."""
    if endpoint.path.startswith("/v1/tickets/{ticket_id}:") or endpoint.tag == "Requests":
        name = endpoint.path.partition(":")[2] or getattr(endpoint.body, "name", "")
        return msgspec.to_builtins(story()[name].answer)
    example = answer_examples().get(
        f"{endpoint.name} {reply.status}", other_examples().get((endpoint.name, reply.media))
    )
    return None if example is None else msgspec.to_builtins(example)


@cache
def other_examples() -> dict[tuple[str, str], Any]:
    """The answers that are not JSON of one struct, by the name of the operation and the media type."""
    events = [FeedItem(event, None) for event in answer_examples()["list_events 200"].items]
    shown = events[0].event
    counted = "\n".join(
        (f"# HELP {POSITION_METRIC.name} {POSITION_METRIC.says}", f"# TYPE {POSITION_METRIC.name} gauge")
    )
    counted += f"\n{POSITION_METRIC.name} {EXAMPLE_POSITION}.0\n"
    return {
        ("list_events", NDJSON): (as_line(shown) + passed_line(EXAMPLE_POSITION + 3)).decode(),
        ("list_events", SSE): (SENT.first + as_sent(shown) + passed_sent(EXAMPLE_POSITION + 3)).decode(),
        ("list_events", CLOUD_EVENTS): msgspec.to_builtins([as_cloud_event(item) for item in events]),
        ("get_metrics", "text/plain"): counted,
        ("get_metrics", OPENMETRICS): f"{counted}# EOF\n",
        ("get_openapi", JSON): {"openapi": "3.1.0", "info": {"title": "Deskledger", "version": "…"}, "paths": {}},
        ("get_docs", HTML): "<!doctype html> …",
        ("get_docs_script", JAVASCRIPT): "/* … */",
    }


def openapi_link(source: Endpoint, target: str, needs_version: bool) -> dict[str, Any]:
    """Where an answer leads: another operation, and what it takes from the answer."""
    members: dict[str, Any] = {"operationId": target}
    if source.name == "register_client":
        if target == "open_ticket":
            return {**members, "requestBody": {"client_user_id": "$response.body#/user_id"}}
        return {**members, "parameters": {"user_id": "$response.body#/user_id"}}
    if "webhook" in target:
        place = "items/0/id" if source.name == "list_webhooks" else "id"
        return {**members, "parameters": {"webhook_id": f"$response.body#/{place}"}}
    place = "items/0/ticket_id" if source.name in LIST_OPERATIONS else "ticket_id"
    members["parameters"] = {"ticket_id": f"$response.body#/{place}"}
    if needs_version:
        members["parameters"]["If-Match"] = "$response.header.ETag"
    if target in ("approve_dossier", "decline_dossier") and source.name == "get_ticket":
        members["requestBody"] = {"dossier_sha256": "$response.body#/dossier/sha256"}
    return members
