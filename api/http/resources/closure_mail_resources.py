"""The outbox over HTTP: which closing e-mails wait, and which could not be delivered."""

from typing import Literal

from falcon.asgi import Request, Response

from api.http.paging import Listing, Paging, finish
from api.http.request_parsing import read_query
from api.http.resources.api_resource import ApiResource
from projections.queries.closure_mail_list import MailRow, mail_page


class MailParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Which mails."""

    state: Literal["due", "sent", "failed"] | None = None


class ClosureMailList(Listing[MailRow], frozen=True):
    """Closing e-mails, newest tickets first."""


class ClosureMails(ApiResource):
    """Closing e-mails and their state."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """The mails, newest first; `?state=failed` are those that somebody has to look at."""
        asked = read_query(req, "closure_mails", MailParameters)
        page = await mail_page(self.fetch, asked.state, asked.cursor, asked.limit)
        finish(req, resp, page, ClosureMailList)
