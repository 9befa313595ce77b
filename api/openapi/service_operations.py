"""The endpoints for those who run the desk, and those of the contract itself."""

from typing import Any

from api.http.paging import JSON, NoFields
from api.http.resources.closure_mail_resources import ClosureMailList, MailParameters
from api.http.resources.service.contract_resources import HTML, JAVASCRIPT, REDOC
from api.http.resources.service.health_resources import Liveness, Readiness
from api.http.resources.service.metrics_resource import OPENMETRICS
from api.openapi.operation import Endpoint
from domain.roles import MAY_MANAGE, MAY_READ
from projections.queries.closure_mail_list import MailRow


def kept_text(name: str, path: str, media: str, shape: Any, says: str) -> Endpoint:
    """A part of the contract, which a caller keeps: 304 when it is the same still."""
    return Endpoint(
        name=name,
        path=path,
        tag="Contract",
        says=says,
        takes=("If-None-Match",),
        answers={200: {media: shape}, 304: None},
        gives=("ETag", "Cache-Control"),
    )


OPERATION_ENDPOINTS = (
    Endpoint(
        name="list_closure_mails",
        path="/v1/closure_mails",
        tag="Operations",
        says="What became of the e-mails that closings cause; `state=failed` are those that somebody has to look at.",
        who=MAY_READ["closure_mails"],
        query=MailParameters,
        answers={200: ClosureMailList},
    ),
    Endpoint(
        name="retry_mail",
        method="POST",
        path="/v1/mails/{message_id}:retry",
        tag="Operations",
        says="Makes an e-mail due again that has failed for good: it goes to the address that the client has then.",
        who=MAY_MANAGE["closure_mails"],
        body=NoFields,
        takes=("Idempotency-Key",),
        answers={200: MailRow},
        gives=("Idempotency-Replayed",),
        refuses={409: ("mail_not_failed",)},
    ),
    Endpoint(
        name="get_liveness",
        path="/livez",
        tag="Operations",
        says="Always 200 while the process is alive: nothing else is asked.",
        answers={200: Liveness},
    ),
    Endpoint(
        name="get_readiness",
        path="/readyz",
        tag="Operations",
        says="Whether it can serve, and how far everything is: log, projections, parked streams, outbox.",
        answers={200: Readiness},
        refuses={503: ("not_ready",)},
    ),
    Endpoint(
        name="get_metrics",
        path="/metrics",
        tag="Operations",
        says="What the processes of this machine have counted, and what the database says; OpenMetrics where `Accept`"
        " names it. The setting DESKLEDGER_METRICS turns it off.",
        answers={200: {"text/plain": str, OPENMETRICS: str}},
    ),
    kept_text("get_openapi", "/openapi.json", JSON, dict[str, Any], "This document: OpenAPI 3.1."),
    kept_text("get_docs", "/docs", HTML, str, "This document as a page for people. It works without a network."),
    kept_text("get_docs_script", REDOC, JAVASCRIPT, str, "What the page is shown with; it never changes."),
)
