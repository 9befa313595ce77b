"""`deskledger api` without some of its manners, for tests/benchmarks/manners.py alone: what they cost is what it lacks.

Nothing of the product can be started so. The environment variable LACKS names what is left out:
log      no request has a name or a trace, and there is no access line
metrics  nothing is counted: neither requests nor commands nor batches
auth     everybody is one member of the staff, and no header is looked at
(That no Idempotency-Key is sent is up to the client.)
"""

import os
import sys
from typing import Any

from falcon.asgi import Request, Response

from api.cli import command_line as cli
from api.http import app
from application.observability import metrics
from domain.values import Level, Principal, Role

LACKS = os.environ["LACKS"].split(",")
STAFF = [Role.INTAKE, Role.AGENT, Role.QUALITY, Role.IT_MANAGER, Role.AUDITOR]
WHO = Principal("staff", "staff", frozenset(STAFF), frozenset(level for level in Level if level != Level.IT_MANAGER))


class Nameless:
    """In the place of `Arrival`: does nothing, once a process."""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Nothing."""


class Everybody:
    """In the place of `Authentication`."""

    def __init__(self, *_: object) -> None:
        """Needs nothing."""

    async def process_request(self, req: Request, resp: Response) -> None:
        """The same caller for every request."""
        req.context.who = WHO


def nothing(*_: object, **__: object) -> None:
    """Counts nothing."""


if "log" in LACKS:
    app.Arrival = Nameless  # type: ignore[misc,assignment]
    os.environ["DESKLEDGER_ACCESS_LOG"] = "off"
if "auth" in LACKS:
    app.Authentication = Everybody  # type: ignore[misc,assignment]
if "metrics" in LACKS:
    os.environ["DESKLEDGER_METRICS"] = "off"
    metrics.Metric.add = metrics.Metric.observe = nothing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main())
