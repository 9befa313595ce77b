"""The application: middleware, errors, and every route on one screen."""

from collections.abc import Callable
from typing import Any

from falcon.routing import CompiledRouter

from api.http import problems
from api.http.middleware.access_log import LoggingApp
from api.http.middleware.authentication import Authentication
from api.http.middleware.request_rules import Arrival
from api.http.middleware.response_headers import Origins, ResponseHeaders
from api.http.paging import JSON, encode
from api.http.resources.api_resource import ApiDeps
from api.http.resources.client_resources import Clients
from api.http.resources.closure_mail_resources import ClosureMails, MailRetry
from api.http.resources.event_resources import EventFeed
from api.http.resources.queue_resources import ClaimNextTicket, QueueResource, Queues
from api.http.resources.report_resources import ReportResource, Reports
from api.http.resources.service.contract_resources import REDOC, ContractPart, docs_page, docs_script
from api.http.resources.service.health_resources import Livez, Readyz
from api.http.resources.service.metrics_resource import Metrics
from api.http.resources.ticket_commands import TicketCommands
from api.http.resources.ticket_resources import Requests, TicketHistory, TicketResource, Tickets
from api.http.resources.webhook_admin.webhook_resources import Webhooks
from api.http.streaming.open_streams import OpenStreams
from api.openapi.document import openapi_document
from api.openapi.header_table import GIVEN
from api.openapi.operations import media_by_path
from api.telemetry.process_watch import Watch, sends_spans
from application.batching_desk import BatchingDesk
from application.commands.deciding import Policy
from application.settings import Settings
from application.store.read_pool import Readers
from projections.status.closed_time import ClosedTime
from projections.status.freshness import Freshness

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", REDOC})  # nobody is asked for a key


class App(LoggingApp):
    """What answers GET answers HEAD as well (RFC 9110, section 9.3.2): the same, without the body."""

    end_streams: Callable[[], None]  # for the end of the server: nobody is to wait for those who only listen

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """As falcon's."""
        for name in [name for name in dir(resource) if name.startswith("on_get")]:
            setattr(resource, name.replace("on_get", "on_head"), getattr(resource, name))
        super().add_route(uri_template, resource, **options)


def desk_of(settings: Settings) -> tuple[BatchingDesk, list[Any]]:
    """The desk, and the middleware that it takes where OpenTelemetry is to hear what it does."""
    url = settings.database_url or ""
    if not sends_spans(settings):
        return BatchingDesk(url), []
    from api.http.middleware.request_spans import Spanned
    from api.telemetry.span_exporter import Sending

    sending = Sending()
    return BatchingDesk(url, sending.span), [Spanned(sending)]


def make_deps(settings: Settings, desk: BatchingDesk) -> ApiDeps:
    """What the resources work with under these settings."""
    url = settings.database_url or ""
    readers = Readers(url)
    streams = OpenStreams(url, settings.streams, settings.streams_each, settings.unread_seconds)
    freshness, policy = Freshness(readers.fetch), Policy(settings.four_eyes, settings.reopen_window)
    commands, closed_time = TicketCommands(desk, freshness, policy), ClosedTime(readers.fetch)
    return ApiDeps(desk, readers, freshness, streams, policy, commands, closed_time)


def add_routes(app: App, settings: Settings, deps: ApiDeps, webhooks: Webhooks, mails: MailRetry) -> None:
    """Every route."""
    app.add_route("/v1/requests", Requests(deps))
    app.add_route("/v1/tickets", Tickets(deps))
    app.add_route("/v1/tickets/{ticket_id:uuid}", TicketResource(deps))
    app.add_route("/v1/tickets/{ticket_id:uuid}:{command}", deps.commands)
    app.add_route("/v1/tickets/{ticket_id:uuid}/history", TicketHistory(deps))
    app.add_route("/v1/queues", Queues(deps))
    app.add_route("/v1/queues/{queue}", QueueResource(deps))
    app.add_route("/v1/queues/{queue}:claim_next", ClaimNextTicket(deps))
    app.add_route("/v1/clients/{user_id}", Clients(deps))
    app.add_route("/v1/events", EventFeed(deps))
    app.add_route("/v1/reports", Reports(deps))
    app.add_route("/v1/reports/{metric}", ReportResource(deps))
    app.add_route("/v1/closure_mails", ClosureMails(deps))
    app.add_route("/v1/mails/{message_id}:retry", mails)
    app.add_route("/v1/webhooks", webhooks)
    app.add_route("/v1/webhooks/{webhook_id:uuid}", webhooks, suffix="one")
    app.add_route("/v1/webhooks/{webhook_id:uuid}:{command}", webhooks, suffix="command")
    app.add_route("/v1/webhooks/{webhook_id:uuid}/deliveries", webhooks, suffix="deliveries")
    app.add_route("/livez", Livez())
    app.add_route("/readyz", Readyz(deps.readers))
    if settings.metrics:
        app.add_route("/metrics", Metrics(deps.readers))
    app.add_route("/openapi.json", ContractPart(JSON, encode(openapi_document())))
    app.add_route("/docs", docs_page())
    app.add_route(REDOC, docs_script())


def create_app(settings: Settings) -> App:
    """The application over one database; `settings.database_url` is set."""
    desk, spans = desk_of(settings)
    deps, router = make_deps(settings, desk), CompiledRouter()
    webhooks, mails = Webhooks(settings, desk, deps.readers), MailRetry(settings, deps)
    middleware: list[Any] = [
        Watch(settings, deps.readers),
        Arrival(),
        *spans,
        deps,
        *([Origins(settings.cors_origins, tuple(GIVEN))] if settings.cors_origins else []),
        ResponseHeaders(router, media_by_path()),
        Authentication(desk, settings, OPEN_PATHS),
        webhooks,
        mails,
    ]
    app = App(middleware=middleware, router=router)
    app.watch(settings, router)
    app.end_streams = deps.streams.end
    problems.install(app)
    add_routes(app, settings, deps, webhooks, mails)
    return app
