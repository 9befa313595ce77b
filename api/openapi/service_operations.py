"""The endpoints for those who run the desk, and those of the contract itself."""

from typing import Any

from api.http.resources.closure_mail_resources import ClosureMailList, MailParameters
from api.http.resources.service.contract_resources import HTML, JAVASCRIPT, REDOC
from api.http.resources.service.health_resources import Alive, Ready
from api.http.resources.service.metrics_resource import OPENMETRICS
from api.openapi import error_codes
from api.openapi.operation import Endpoint, ResponseSpec
from domain.roles import MAY_READ

OPERATION_ENDPOINTS = (
    Endpoint(
        name="list_closure_mails",
        path="/v1/closure_mails",
        tag="Operations",
        summary="List closing e-mails",
        says="What became of the e-mails that closings cause; `state=failed` are those that somebody has to look at.",
        who=tuple(MAY_READ["closure_mails"]),
        query=MailParameters,
        replies=(
            ResponseSpec(says="A page of e-mails.", shape=ClosureMailList, headers=("Deskledger-Position", "Link")),
        ),
        problems=error_codes.together(error_codes.EVERYWHERE, error_codes.LISTED),
    ),
    Endpoint(
        name="get_liveness",
        path="/livez",
        tag="Operations",
        summary="Is the process alive?",
        says="Always 200: nothing else is asked.",
        replies=(ResponseSpec(says="It is.", shape=Alive),),
        problems=error_codes.together(error_codes.HTTP),
    ),
    Endpoint(
        name="get_readiness",
        path="/readyz",
        tag="Operations",
        summary="Can the process serve?",
        says="How far everything is: log, projections, parked streams, outbox.",
        replies=(ResponseSpec(says="It can.", shape=Ready),),
        problems=error_codes.together(error_codes.HTTP, {503: ("not_ready",)}),
    ),
    Endpoint(
        name="get_metrics",
        path="/metrics",
        tag="Operations",
        summary="Metrics for Prometheus",
        says="What the processes of this machine have counted, and what the database says; OpenMetrics where `Accept`"
        " names it. The setting DESKLEDGER_METRICS turns it off.",
        replies=(ResponseSpec(says="The metrics.", shape=str, media="text/plain", others={OPENMETRICS: str}),),
        problems=error_codes.together(error_codes.HTTP),
    ),
    Endpoint(
        name="get_openapi",
        path="/openapi.json",
        tag="Contract",
        summary="The contract for programs",
        says="This document: OpenAPI 3.1.",
        headers=("If-None-Match",),
        replies=(
            ResponseSpec(says="The document.", shape=dict[str, Any], headers=("ETag", "Cache-Control")),
            ResponseSpec(
                status=304, says="The copy that the caller has is the same still.", headers=("ETag", "Cache-Control")
            ),
        ),
        problems=error_codes.together(error_codes.HTTP),
    ),
    Endpoint(
        name="get_docs",
        path="/docs",
        tag="Contract",
        summary="The contract for people",
        says="This document as a page. It works without a network.",
        replies=(ResponseSpec(says="The page.", shape=str, media=HTML),),
        problems=error_codes.together(error_codes.HTTP),
    ),
    Endpoint(
        name="get_docs_script",
        path=REDOC,
        tag="Contract",
        summary="What the page is shown with",
        says="A script that never changes under this address.",
        replies=(ResponseSpec(says="The script.", shape=str, media=JAVASCRIPT),),
        problems=error_codes.together(error_codes.HTTP),
    ),
)
