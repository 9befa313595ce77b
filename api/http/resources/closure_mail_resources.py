"""The outbox over HTTP: which closing e-mails wait, and which could not be delivered."""

from typing import Literal

from falcon.asgi import Request, Response

from api.http.paging import Listing, Paging, finish
from api.http.request_parsing import parameters
from application.store.postgres.read_pool import Readers
from domain import roles
from projections.queries.closure_mail_list import MailRow, mail_page


class MailParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Which mails."""

    state: Literal["due", "sent", "failed"] | None = None


class ClosureMailList(Listing[MailRow], frozen=True):
    """Closing e-mails, newest tickets first."""


class ClosureMails:
    """Closing e-mails and their state."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def on_get(self, req: Request, resp: Response) -> None:
        """The mails, newest first; `?state=failed` are those that somebody has to look at."""
        roles.require_read(req.context.who, "closure_mails")
        asked = parameters(req, MailParameters)
        page = await mail_page(self._readers.fetch, asked.state, asked.cursor, asked.limit)
        finish(req, resp, page, ClosureMailList)
