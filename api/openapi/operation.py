"""What an operation of the API is: one row of the contract, with what follows from it."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from api.http.paging import JSON, NoParameters
from api.openapi.error_codes import CODES_OF_PARTS, EVERYWHERE, Codes, together

Struct = type[msgspec.Struct]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One operation.

    Without a `tag` it stands under the first part of its path. `who` are the roles that may, in words where a condition
    stands with them; without any, no key is needed. `takes` are the headers of the request that are its own, and
    `needs` those that it cannot do without. `answers` are the statuses that are no problem: each with its shape as
    JSON, with the shape in each media type, or with None for an answer without a body. `gives` are the headers of the
    answers that are its own; one whose name ends with "?" is there now and then. `refuses` are the problems that no
    part of a request explains; `callbacks` are the requests that it leads to. All else follows from these.
    """

    name: str
    method: str = "GET"
    path: str
    tag: str | None = None
    says: str
    who: Collection[str] = ()
    query: Struct = NoParameters
    body: Struct | None = None
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    answers: Mapping[int, Any]
    gives: tuple[str, ...] = ()
    refuses: Codes = {}
    callbacks: Mapping[str, Any] = {}

    @property
    def heading(self) -> str:
        """The tag that it stands under."""
        return self.tag or self.path.split("/")[2].capitalize()

    @property
    def path_parameters(self) -> list[str]:
        """The names that stand in braces in its path."""
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def waits(self) -> bool:
        """Whether it is a query that waits for what its caller wrote."""
        return not {"min_position", "min_version"}.isdisjoint(self.query.__struct_fields__)

    @property
    def request_headers(self) -> tuple[str, ...]:
        """The headers that it takes."""
        return (*self.needs, *self.takes, *(("Prefer",) if self.waits else ()))

    @property
    def response_headers(self) -> list[str]:
        """The headers of its answers, but for those of every answer."""
        asked, names = self.query.__struct_fields__, list(self.gives)
        if "cursor" in asked:
            names.append("Link")
        if "cursor" in asked or "min_position" in asked:
            names.append("Deskledger-Position")
        if self.waits:
            names.append("Preference-Applied")
        return names

    @property
    def problems(self) -> dict[int, tuple[str, ...]]:
        """The codes of its problems, by status: those of each part of the request, and its own."""
        parts = ["{" + name + "}" for name in self.path_parameters]
        parts += [*self.query.__struct_fields__, *self.request_headers]
        parts += [f"{name}, needed" for name in self.needs]
        if self.method != "GET":
            parts.append("changes")
        if self.who:
            parts.append("key")
        if self.body:
            parts.append("body")
        return together([EVERYWHERE, *(CODES_OF_PARTS.get(part, {}) for part in parts), self.refuses])


def content(answer: Any) -> Mapping[str, Any]:
    """The shapes of an answer, by media type."""
    if answer is None:
        return {}
    return answer if isinstance(answer, Mapping) else {JSON: answer}
