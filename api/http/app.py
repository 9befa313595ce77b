"""The application: middleware, errors, and every route on one screen."""

from collections.abc import Callable
from typing import Any

from falcon.routing import CompiledRouter

from api.http import problems
from api.http.middleware.access_log import Arrival, Watched
from api.http.middleware.authentication import Authentication
from api.http.middleware.request_rules import RequestRules
from api.http.middleware.response_headers import Origins, ResponseHeaders
from api.http.resources.client_resources import Clients
from api.http.resources.closure_mail_resources import ClosureMails
from api.http.resources.event_resources import EventFeed
from api.http.resources.queue_resources import ClaimNextTicket, QueueResource, Queues
from api.http.resources.report_resources import ReportResource, Reports
from api.http.resources.service.contract_resources import REDOC, Contract, Docs, Redoc
from api.http.resources.service.health_resources import Livez, Readyz
from api.http.resources.service.metrics_resource import Metrics
from api.http.resources.ticket_commands import TicketCommands
from api.http.resources.ticket_resources import Requests, TicketHistory, TicketResource, Tickets
from api.http.resources.webhook_admin.webhook_deps import make_webhook_deps
from api.http.resources.webhook_admin.webhook_resources import (
    WebhookCommands,
    WebhookDeliveries,
    WebhookResource,
    Webhooks,
)
from api.http.streaming.open_streams import OpenStreams
from api.openapi.document import encoded
from api.openapi.header_table import GIVEN
from api.openapi.operations import MEDIA
from api.telemetry.process_watch import Watch, sends_spans
from application.batching_desk import BatchingDesk
from application.commands.deciding import Policy
from application.settings import Settings
from application.store.postgres.read_pool import Readers
from projections.status.freshness import Freshness

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", REDOC})  # nobody is asked for a key


class ConnectionLifespan:
    """Opens the connections in the process that serves, and closes them at its end."""

    def __init__(self, desk: BatchingDesk, readers: Readers, streams: OpenStreams) -> None:
        self._desk, self._readers, self._streams = desk, readers, streams

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork."""
        await self._readers.open()
        await self._streams.readers.open()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs when a worker has finished what it accepted."""
        await self._streams.readers.close()
        await self._readers.close()
        await self._desk.close()


class App(Watched):
    """What answers GET answers HEAD as well (RFC 9110, section 9.3.2): the same, without the body."""

    end_streams: Callable[[], None]  # for the end of the server: nobody is to wait for those who only listen

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """As falcon's."""
        get = getattr(resource, "on_get", None)
        if get and not hasattr(resource, "on_head"):
            resource.on_head = get  # type: ignore[attr-defined]
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


def create_app(settings: Settings) -> App:
    """The application over one database; `settings.database_url` is set."""
    url = settings.database_url or ""
    desk, spans = desk_of(settings)
    readers = Readers(url)
    streams = OpenStreams(url, settings.streams, settings.streams_each, settings.unread_seconds)
    policy = Policy(settings.four_eyes, settings.reopen_window)
    router = CompiledRouter()
    middleware: list[Any] = [
        Watch(settings, readers),
        Arrival(),
        RequestRules(),
        *spans,
        ConnectionLifespan(desk, readers, streams),
        *([Origins(settings.cors_origins, tuple(GIVEN))] if settings.cors_origins else []),
        ResponseHeaders(router, MEDIA),
        Authentication(desk, settings, OPEN_PATHS),
    ]
    app = App(middleware=middleware, router=router)
    app.watch(settings, router)
    app.end_streams = streams.end
    problems.install(app)
    freshness = Freshness(readers.fetch)
    commands, webhooks = TicketCommands(desk, freshness, policy), make_webhook_deps(settings, desk, readers)
    app.add_middleware(webhooks)

    app.add_route("/v1/requests", Requests(commands))
    app.add_route("/v1/tickets", Tickets(commands, readers, freshness))
    app.add_route("/v1/tickets/{ticket_id:uuid}", TicketResource(desk, readers, freshness, policy))
    app.add_route("/v1/tickets/{ticket_id:uuid}:{command}", commands)
    app.add_route("/v1/tickets/{ticket_id:uuid}/history", TicketHistory(readers, freshness))
    app.add_route("/v1/queues", Queues(readers, freshness))
    app.add_route("/v1/queues/{queue}", QueueResource(readers, freshness))
    app.add_route("/v1/queues/{queue}:claim_next", ClaimNextTicket(commands, readers))
    app.add_route("/v1/clients/{user_id}", Clients(desk, readers, freshness))
    app.add_route("/v1/events", EventFeed(readers, freshness, streams))
    app.add_route("/v1/reports", Reports())
    app.add_route("/v1/reports/{metric}", ReportResource(readers, freshness))
    app.add_route("/v1/closure_mails", ClosureMails(readers))
    app.add_route("/v1/webhooks", Webhooks(webhooks))
    app.add_route("/v1/webhooks/{webhook_id:uuid}", WebhookResource(webhooks))
    app.add_route("/v1/webhooks/{webhook_id:uuid}:{command}", WebhookCommands(webhooks))
    app.add_route("/v1/webhooks/{webhook_id:uuid}/deliveries", WebhookDeliveries(webhooks))
    app.add_route("/livez", Livez())
    app.add_route("/readyz", Readyz(readers))
    if settings.metrics:
        app.add_route("/metrics", Metrics(readers))
    app.add_route("/openapi.json", Contract(encoded()))
    app.add_route("/docs", Docs())
    app.add_route(REDOC, Redoc())
    return app
