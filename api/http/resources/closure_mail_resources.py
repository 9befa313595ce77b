"""The outbox over HTTP: which closing e-mails wait, which could not be delivered, and how one is sent again."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import psycopg
from falcon.asgi import Request, Response
from msgspec.structs import replace

from api.http.paging import JSON, Listing, NoFields, Paging, encode, finish
from api.http.problems import Problem
from api.http.request_parsing import idempotency_request, read_json, read_query
from api.http.resources.api_resource import ApiDeps, ApiResource
from application.clock import utc_now
from application.commands.idempotency import IdempotencyRequest
from application.mail.mail_retry import MailRetries, UnknownMail
from application.settings import Settings
from application.store.postgres.pg_connection import PgConnection
from domain import roles
from projections.queries.closure_mail_list import MailRow, MailState, find_mail, mail_page

MessageId = Annotated[str, msgspec.Meta(min_length=1, pattern="^[^/\x00-\x1f\x7f]+$")]


class MailParameters(Paging, frozen=True, forbid_unknown_fields=True):
    """Which mails."""

    state: MailState | None = None


class ClosureMailList(Listing[MailRow], frozen=True):
    """Closing e-mails, newest tickets first."""


class ClosureMails(ApiResource):
    """Closing e-mails and their state."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """The mails, newest first; `?state=failed` are those that somebody has to look at."""
        asked = read_query(req, "closure_mails", MailParameters)
        page = await mail_page(self.fetch, asked.state, asked.cursor, asked.limit)
        finish(req, resp, page, ClosureMailList)


class MailRetry(ApiResource):
    """One e-mail is sent again."""

    def __init__(self, settings: Settings, deps: ApiDeps) -> None:
        super().__init__(deps)
        self._retries = MailRetries(PgConnection(settings.database_url or "", "api mails"))

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Closes the connection when a process of the API ends."""
        await self._retries.close()

    async def on_post(self, req: Request, resp: Response, message_id: str) -> None:
        """One that has failed is due again; the answer is how it stands then."""
        roles.require_manage(req.context.who, "closure_mails")
        await read_json(req, NoFields)
        request = idempotency_request(req, lambda _: b"")
        before = await self.deps.desk.find_answer(request)
        if before is None:
            try:
                body = await self._retry(message_id, request)
            except psycopg.errors.UniqueViolation:  # the same key, a moment ago
                before = await self.deps.desk.find_answer(request)
                if before is None:
                    raise
        if before is not None:
            resp.set_header("Idempotency-Replayed", "true")
            body = before.body
        resp.content_type, resp.data = JSON, body

    async def _retry(self, message_id: str, request: IdempotencyRequest | None) -> bytes:
        mail, now = await find_mail(self.fetch, message_id), utc_now()
        if mail is None:
            raise UnknownMail
        due = replace(
            mail, state="due", due_at=now, attempts=0, settled_at=None, first_refused_at=None, needs_desk=False
        )
        body, failed_at = encode(due), mail.settled_at if mail.state == "failed" else None
        if failed_at and await self._retries.retry(mail.message_id, failed_at, body.decode(), now, request):
            return body
        is_now = "due" if failed_at else mail.state  # somebody else was faster
        detail = f"Only an e-mail that has failed for good is sent again, and this one is {is_now}."
        raise Problem(409, "mail_not_failed", detail)
