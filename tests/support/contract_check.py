"""Does the server do what its document says? schemathesis asks, with requests that fit the document and that do not.

`make contract` is the long form: at least 20,000 cases, and the end with 1 on a finding.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from api.openapi.operation import Endpoint
from api.openapi.operations import ENDPOINTS
from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from domain.values import Level, Role
from projections.runner import ensure_projections
from tests.support import schemathesis_hooks as known_client
from tests.support.running_desk import STAFF, RunningDesk
from tests.support.schemathesis_hooks import CLIENT

ENOUGH = 20_000
SETTINGS = {
    "DESKLEDGER_FOUR_EYES": "off",  # so that one key can go the whole way
    "DESKLEDGER_FAILED_SIGN_INS": "0",
    "DESKLEDGER_WEBHOOK_HOSTS": "127.0.0.1",  # so that no name is looked up
    "DESKLEDGER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "DESKLEDGER_WEBHOOK_ALLOW_HTTP": "on",
}
CHECKS = """
[parameters]
"header.Prefer" = "wait=0"
[checks.missing_required_header]
expected-statuses = [428]
"""
WALKS = """
[phases.stateful]
max-steps = 20
generation.mode = "positive"
inference.algorithms = []
"""
OPERATION = """
[[operations]]
include-operation-id = "{name}"
checks.positive_data_acceptance.expected-statuses = {statuses}
"""

BEGINNINGS = (
    # who makes something, the parameter that takes it elsewhere, and the member of the answer that has it
    ("/v1/requests", "ticket_id", "ticket_id"),
    ("/v1/tickets", "ticket_id", "ticket_id"),
    ("/v1/webhooks", "webhook_id", "id"),
)


class Findings(msgspec.Struct, frozen=True):
    """What a run came to: how many requests it made, whether all answers were in order, and what it says."""

    cases: int
    in_order: bool
    said: str


def expectations() -> str:
    """The settings of schemathesis: which refusals of well-formed requests are in order, by operation."""
    written = [CHECKS, WALKS]
    for endpoint in ENDPOINTS:
        acceptable = [200, 201, 204, 304, 401, 403, 404, 409, 412, 503, *refused_by_content(endpoint)]
        written.append(OPERATION.format(name=endpoint.name, statuses=acceptable))
        if "projection_behind" in endpoint.problems.get(503, ()):  # nobody can wait for what will never be
            written.append('checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]\n')
        if endpoint.name == "list_events":  # a long-poll of a second, not of a minute
            written.append('parameters."query.wait" = 1\n')
    return "".join(written)


def refused_by_content(endpoint: Endpoint) -> list[int]:
    """The statuses of what no schema can say: that a client is known, what goes together, what a cursor is."""
    names = set(endpoint.query.__struct_fields__)
    together = {"cursor", "as_of", "group_by", "since"} & names
    # schemathesis leaves an optional header out, or tries it with 0, and takes that for well-formed
    together |= {"If-Match"} & set(endpoint.request_headers) - set(endpoint.needs)
    known = {"unknown_client", "link_to_self", "url_refused", "unknown_position"} & set(endpoint.problems.get(422, ()))
    known |= {"register_client"} & {endpoint.name}  # no pattern says what can be an address
    return [400] * bool(together) + [422] * bool(known or "Idempotency-Key" in endpoint.request_headers)


def requests(served: RunningDesk, key: str, seed: int, cases: int, without: Sequence[str] = ()) -> Findings:
    """Each operation by itself: its examples, each boundary of what it takes, and up to `cases` at random."""
    return conform(served, key, seed, cases, "", "examples,coverage,fuzzing", without=without)


def walks(served: RunningDesk, key: str, seed: int, cases: int) -> Findings:
    """Walks of up to 20 requests from one operation to the next, with a client whom the directory knows."""
    served.client(CLIENT)
    return conform(served, key, seed, cases, f'hooks = "{known_client.__file__}"\n', "stateful", with_links)


def with_links(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a link from whatever makes a ticket or a webhook to all that can be done with it.

    It is without the header that keeps schemathesis from beginning: it takes every …-Id for that of a thing which has
    to be there before.
    """
    for path, parameter, member in BEGINNINGS:
        made = document["paths"][path]["post"]
        made["parameters"] = [one for one in made["parameters"] if one["name"] != "X-Correlation-Id"]
        link = {"parameters": {parameter: f"$response.body#/{member}"}}
        made["responses"]["201"]["links"] = {
            endpoint.name: {"operationId": endpoint.name, **link}
            for endpoint in ENDPOINTS
            if parameter in endpoint.path_parameters
        }
    return document


def conform(
    served: RunningDesk,
    key: str,
    seed: int,
    cases: int,
    hooks: str,
    phases: str,
    read: Callable[[Any], Any] = lambda it: it,
    without: Sequence[str] = (),
) -> Findings:
    """Runs schemathesis against a running server, with the document that it serves."""
    with tempfile.TemporaryDirectory() as place:
        document = read(served.get("/openapi.json").json)
        (Path(place) / "openapi.json").write_text(json.dumps(document))
        (Path(place) / "settings.toml").write_text(hooks + expectations())
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", "settings.toml"]
        command += ["run", "openapi.json", "--url", served.base, "--header", f"Authorization: Bearer {key}"]
        command += ["--seed", f"{seed}", "--max-examples", f"{cases}", "--phases", phases, "--continue-on-failure"]
        command += ["--checks", "all", "--max-response-time", "30"]
        command += [part for name in without for part in ("--exclude-operation-id", name)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    counted = re.search(r"(\d+) generated", done.stdout)
    return Findings(int(counted[1]) if counted else 0, done.returncode == 0, done.stdout + done.stderr)


def everything(served: RunningDesk) -> str:
    """A key that may give every command and read everything."""
    levels = [level for level in Level if level is not Level.IT_MANAGER]
    return served.key(*STAFF, Role.AUDITOR, Role.ADMIN, levels=levels)


@contextmanager
def desk() -> Iterator[RunningDesk]:
    """A desk with a database of its own."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deskledger-contract-")))
        directory.chmod(0o755)
        postgres = EmbeddedPostgres(directory / "data")
        postgres.start()
        stack.callback(postgres.stop)
        with connect(postgres.url, "contract") as connection:
            migrate(connection)
            ensure_projections(connection)
        served = RunningDesk(postgres.url, directory)
        served.environment |= SETTINGS
        yield stack.enter_context(served)


def main() -> int:
    """The long form: a key that may do everything, and narrow ones; two runs at a time, until there were enough."""
    with desk() as served, ThreadPoolExecutor(2) as two:
        narrow = {
            "client": served.key(Role.CLIENT, client=CLIENT),
            "agent of tier 1": served.key(Role.AGENT, levels=[Level.TIER1]),
            "reporter": served.key(Role.REPORTER),
        }
        whole = everything(served)
        runs = [("everything", whole, 1, requests, 60), ("everything", whole, 2, walks, 400)]
        runs += [(name, key, 1, requests, 5) for name, key in narrow.items()]
        runs += [("everything", whole, seed, form, 100) for seed in (3, 4) for form in (requests, walks)]
        found = list(two.map(lambda run: told(run[0], run[2], run[3](served, run[1], run[2], run[4])), runs))
        while (total := sum(one.cases for one in found)) < ENOUGH:
            seed = len(found) + 1
            found.append(told("everything", seed, requests(served, whole, seed, 100)))
            if not found[-1].cases:
                break  # it does not run at all, and says why
    in_order = total >= ENOUGH and all(one.in_order for one in found)
    print(f"{total} cases, {ENOUGH} wanted: {'no finding' if in_order else 'with findings'}")
    return 0 if in_order else 1


def told(who: str, seed: int, found: Findings) -> Findings:
    """Says what a run came to, all of it where there is a finding."""
    print(f"{who}, seed {seed}: {found.cases} cases, {'in order' if found.in_order else found.said}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
