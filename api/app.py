"""The application: middleware, errors, and every route on one screen."""

from typing import Any

import falcon.asgi
from falcon.asgi import Request, Response

from api import problems
from api.auth import Authentication
from api.clients import Clients
from api.closure_mails import ClosureMails
from api.events import Events
from api.health import Livez, Readyz
from api.queues import ClaimNextTicket, QueueResource, Queues
from api.reports import ReportResource, Reports
from api.tickets import Commands, Requests, TicketHistory, TicketResource, Tickets
from application.combining import CombiningDesk
from application.deciding import Policy
from application.reading import Readers
from application.settings import Settings
from projections.freshness import Freshness


class Connections:
    """Opens the connections in the process that serves, and closes them at its end."""

    def __init__(self, desk: CombiningDesk, readers: Readers) -> None:
        self._desk, self._readers = desk, readers

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs in each worker, after the fork."""
        await self._readers.open()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Runs when a worker has finished what it accepted."""
        await self._readers.close()
        await self._desk.close()


class NotCached:
    """What the desk says is true now; nobody is to keep it."""

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        """Runs after every request."""
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")


class App(falcon.asgi.App[Request, Response]):
    """What answers GET answers HEAD as well (RFC 9110, section 9.3.2): the same, without the body."""

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """As falcon's."""
        get = getattr(resource, "on_get", None)
        if get and not hasattr(resource, "on_head"):
            resource.on_head = get  # type: ignore[attr-defined]
        super().add_route(uri_template, resource, **options)


def create_app(settings: Settings) -> falcon.asgi.App[Request, Response]:
    """The application over one database; `settings.database_url` is set."""
    url = settings.database_url or ""
    desk, readers = CombiningDesk(url), Readers(url)
    policy = Policy(settings.four_eyes, settings.reopen_window)
    middleware: list[Any] = [Connections(desk, readers), NotCached(), Authentication(desk)]
    app = App(middleware=middleware)
    problems.install(app)
    freshness = Freshness(readers.fetch)
    commands = Commands(desk, freshness, policy)

    app.add_route("/v1/requests", Requests(commands))
    app.add_route("/v1/tickets", Tickets(commands, readers, freshness))
    app.add_route("/v1/tickets/{ticket_id:uuid}", TicketResource(desk, readers, freshness, policy))
    app.add_route("/v1/tickets/{ticket_id:uuid}:{command}", commands)
    app.add_route("/v1/tickets/{ticket_id:uuid}/history", TicketHistory(readers, freshness))
    app.add_route("/v1/queues", Queues(readers, freshness))
    app.add_route("/v1/queues/{queue}", QueueResource(readers, freshness))
    app.add_route("/v1/queues/{queue}:claim_next", ClaimNextTicket(commands, readers))
    app.add_route("/v1/clients/{user_id}", Clients(desk, readers, freshness))
    app.add_route("/v1/events", Events(readers, freshness))
    app.add_route("/v1/reports", Reports())
    app.add_route("/v1/reports/{metric}", ReportResource(readers, freshness))
    app.add_route("/v1/closure_mails", ClosureMails(readers))
    app.add_route("/livez", Livez())
    app.add_route("/readyz", Readyz(readers))
    return app
