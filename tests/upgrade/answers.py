"""What is kept of a desk's answers, to compare those of a later version with them.

It stands on the standard library alone: the script that makes the material runs it beside an earlier version.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

Get = Callable[[str, str], Any]  # address and key to a reply with `status` and `json`
WHOLE = 200  # a list of more items is kept as a count and a hash
HASHED = ("position", "ticket_id", "version", "type", "at", "step", "words", "data")
WORDING = ("definition", "formula", "population", "unit")  # of a report: may be said better
LISTS = (
    "/v1/tickets",
    "/v1/tickets?state=closed",
    "/v1/tickets?queue=tier2",
    "/v1/tickets?priority=2",
    "/v1/tickets?q=network",
    "/v1/tickets?client_user_id=client-1",
    "/v1/queues",
    "/v1/events",
    "/v1/events?type=Ticket.Escalated",
    "/v1/events?client_user_id=client-2",
    *(f"/v1/closure_mails?state={state}" for state in ("due", "sent", "failed")),
)


def addresses(
    tickets: Iterable[tuple[str, int]], clients: Iterable[str], now: str, metrics: Iterable[str]
) -> list[str]:
    """Every query that is asked; `tickets` with the version that each is at, `now` the end of what is asked by time."""
    found = list(LISTS)
    for ticket, version in tickets:
        here = f"/v1/tickets/{ticket}"
        found += [here, f"{here}/history", *(f"{here}?version={one}" for one in {1, (version + 1) // 2, version})]
    found += [f"/v1/clients/{client}" for client in clients]
    for queue in ("intake", "tier1", "tier2", "tier3", "onsite", "it_manager", "noc", "quality_control", "closing"):
        found += [f"/v1/queues/{queue}", f"/v1/queues/{queue}?{urlencode({'as_of': now})}"]
    for metric in metrics:
        found += [f"/v1/reports/{metric}?{urlencode({'to': now} | by)}" for by in ({}, {"group_by": "week"})]
    return found


def answer(get: Get, address: str, key: str, before: Callable[[Any], Any] = lambda item: item) -> list[Any]:
    """The status and what is kept of the answer; the pages of a list are read to the end.

    `before` makes an item what it was before something was mended.
    """
    reply = get(address, key)
    if reply.status != 200:
        return [reply.status, {"code": reply.json["code"]}]
    if "next" not in reply.json:
        return [200, {name: value for name, value in reply.json.items() if name not in WORDING}]
    items = [*reply.json["items"], *_further(get, address, key, reply.json["next"])]
    return [200, kept([before(item) for item in items])]


def _further(get: Get, address: str, key: str, following: str | int | None) -> Iterator[Any]:
    name = "after" if address.startswith("/v1/events") else "cursor"
    while following is not None:
        page = get(f"{address}{'&' if '?' in address else '?'}{urlencode({name: following})}", key).json
        yield from page["items"]
        following = page["next"]


def kept(items: list[Any]) -> Any:
    """A list as it is; a long one by its length and the hash of what every version shows of its items."""
    if len(items) <= WHOLE:
        return items
    shown = [[item.get(name) for name in HASHED] for item in items]
    return {"items": len(items), "sha256": sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()}


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where an answer says less than before, or something else; what is new in an object is none, nor is a command
    that became possible."""
    if where.endswith(".allowed_commands") and set(before) <= set(now):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in before.items():
            yield from differences(value, now.get(name, "(missing)"), f"{where}.{name}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{where}[{place}]")
    elif before != now:
        yield f"{where}: {str(before)[:200]} is now {str(now)[:200]}"
