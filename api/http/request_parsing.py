"""From what came over the wire to values: bodies, parameters and headers. What is wrong is said here, and only here."""

import re
from collections.abc import Callable, Collection
from datetime import datetime
from enum import EnumType
from hashlib import sha256
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from falcon.asgi import Request

from api.http.problems import Problem
from api.http.request_context import traceparent
from application.commands.deciding import Outcome, Trace
from application.commands.idempotency import IdempotencyRequest
from application.commands.text_types import ADDRESS, ONE_LINE, REASON, SAYS_SOMETHING, SHA256, USER_ID_PATTERN
from domain import roles
from domain.client import NO_PRECONDITION, Precondition
from domain.errors import TextFault

MOST_BYTES = 1024 * 1024
MOST_QUOTED = 300  # of what came in, an answer repeats no more than this
Wanted = TypeVar("Wanted", bound=msgspec.Struct)
PATTERNS_IN_WORDS = {  # what msgspec says of a pattern, for people
    SAYS_SOMETHING: "it must say something that can be seen, and hold no NUL characters",
    REASON: "it must say something that can be seen, without characters that control or turn the text around them",
    ONE_LINE: "it must be one line that says something that can be seen, without characters that control or turn it",
    ADDRESS: "it must be an e-mail address like name@example.org",
    USER_ID_PATTERN: "a user ID has letters, digits and . _ @ + - and begins with a letter or digit",
    SHA256: "it must be a SHA-256: 64 digits from 0-9 and a-f",
}
_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")
PRECONDITIONS = ("If-Match", "If-None-Match")
IF_MATCH = r'^(\*|(W/)?"[^"]*")$'
_VERSION = re.compile(r'"[1-9][0-9]{0,8}"')
_PREFER_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*("?)(?P<seconds>\d{1,4})\1(?:$|[,;\s])', re.IGNORECASE)
_FIELD = re.compile(r"(?P<fault>unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)
_INVALID = re.compile(r"Invalid field `(?P<name>\w+)`: (?P<why>.*)", re.DOTALL)  # what a struct says of its own field
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
MOST_WAIT_SECONDS = 30
LISTS = frozenset({"group_by"})  # take several words, with commas between them or each by itself
# Printable ASCII with no quotes or blanks at its ends; quotes around all of it are not part of the key.
IDEMPOTENCY_KEY = r'^([!#-~]([ -~]{0,253}[!#-~])?|"[!#-~]([ -~]{0,253}[!#-~])?")$'
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY)


async def read_json(req: Request, wanted: type[Wanted]) -> Wanted:
    """The body as a struct. An empty body stands for one without fields.

    Raises Problem: 400 malformed JSON, 413 too large, 415 not JSON, 422 not what the command takes.
    """
    raw = req.context.body = await read_body(req)
    if raw:
        _require_plain_json(req)
    try:
        return msgspec.json.decode(raw or b"{}", type=wanted)
    except msgspec.ValidationError as error:
        raise invalid(422, error, wanted) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "malformed_json", f"The body is not JSON in UTF-8: {error}.") from None


def _require_plain_json(req: Request) -> None:
    if (req.content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not_json", "Send the body as JSON, with Content-Type: application/json.")
    if (req.get_header("Content-Encoding") or "identity").strip().lower() != "identity":
        detail = "Send the body as it is, without Content-Encoding: nothing is unpacked here."
        raise Problem(415, "unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})


async def read_body(req: Request) -> bytes:
    """The bytes of the body. Raises Problem: 413 when it has more than 1 MiB."""
    if (req.content_length or 0) <= MOST_BYTES:
        raw = await req.stream.read(MOST_BYTES + 1)
        if len(raw) <= MOST_BYTES:
            return raw
    raise Problem(413, "body_too_large", f"A body has at most {MOST_BYTES} bytes.")


def invalid(status: int, error: msgspec.ValidationError, wanted: type[msgspec.Struct] | None = None) -> Problem:
    """A value that does not fit, with the JSON pointer of where it stands, and the words that would fit."""
    text = str(error)
    found = _PATH.search(text)
    detail = text[: found.start()] if found else text
    pointer = found["path"].removeprefix("$").replace("[...]", "/-").replace("[", "/").replace("]", "") if found else ""
    pointer = pointer.replace(".", "/")
    if isinstance(fault := error.__cause__, TextFault):
        pointer, detail = f"{pointer}/{fault.field}", f"it {fault.reason}"
    elif field := _FIELD.search(detail):
        pointer += "/" + field["name"].replace("~", "~0").replace("/", "~1")
        detail = "there is no such field" if field["fault"] == "unknown" else "it is required"
    if field := _INVALID.match(detail):
        pointer, detail = f"{pointer}/{field['name']}", field["why"]
    detail = next((plain for pattern, plain in PATTERNS_IN_WORDS.items() if repr(pattern) in detail), detail)
    if wanted and detail.startswith("Invalid enum value") and (words := _words(wanted, pointer.split("/")[1:])):
        detail = _one_of(words)
    return _not_fitting(status, pointer, detail)


def _words(kind: Any, names: list[str]) -> list[str]:
    """The words that a struct takes under these names; none where it takes anything else."""
    if types := {field.encode_name: field.type for field in _fields(kind)}:
        return _words(types.get(names[0]), names[1:]) if names else []
    parts = get_args(kind)
    if get_origin(kind) is list:
        return _words(parts[0], names[1:])
    if isinstance(kind, EnumType) or get_origin(kind) is Literal:
        return [] if names else [str(word) for word in parts or kind]
    return next((found for part in parts if (found := _words(part, names))), [])


def _fields(kind: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind) if hasattr(kind, "__struct_fields__") else ()


def _one_of(words: list[str]) -> str:
    """That it takes one of these; of many, an example."""
    listed = ", ".join(words)
    return (
        f"it takes one of {listed if len(listed) < MOST_QUOTED - 20 else f'the words in /openapi.json, as {words[0]}'}"
    )


def _not_fitting(status: int, pointer: str, detail: str) -> Problem:
    code = "invalid_body" if status == 422 else "invalid_parameter"
    pointer, detail = pointer[:MOST_QUOTED], detail[:MOST_QUOTED].strip()
    errors = [{"pointer": pointer, "detail": detail}]
    return Problem(status, code, f"{pointer or 'The request'}: {detail}.", errors=errors)


def read_query(req: Request, what: str, wanted: type[Wanted]) -> Wanted:
    """The parameters of a query, for whoever may read that. Raises Forbidden, and Problem with status 400."""
    roles.require_read(req.context.who, what)
    return parameters(req, wanted)


def parameters(req: Request, wanted: type[Wanted]) -> Wanted:
    """The query parameters as a struct; an unknown, repeated or mistyped one is a Problem with status 400."""
    values: dict[str, Any] = dict(req.params)
    for name, given in req.params.items():
        if name in LISTS:
            given = ",".join(given) if isinstance(given, list) else given
            values[name] = given.split(",")
        elif isinstance(given, list):
            raise _not_fitting(400, f"/{name}", "it is given twice, and nobody can tell which one is meant")
        if "\0" in given:
            raise Problem(400, "invalid_parameter", "A parameter holds a NUL character: leave it out.")
    try:
        value = msgspec.convert(values, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(400, error, wanted) from None
    for name, field in zip(wanted.__struct_encode_fields__, wanted.__struct_fields__, strict=True):
        if name in req.params and getattr(value, field) is None:  # msgspec takes the text null for none at all
            raise _not_fitting(400, f"/{name}", "leave it out, or give it a value")
        # msgspec takes a bare number for seconds since 1970: as_of=2026
        if isinstance(getattr(value, field), datetime) and not _DATE.match(str(req.params.get(name))):
            raise _not_fitting(400, f"/{name}", "it must be a time like 2026-11-23T09:30:00Z")
    return value


def expected_version(req: Request) -> int | None:
    """The version in If-Match: `"5"`; None for `*`. A weak or foreign tag can never match, so it is version 0.

    Raises Problem: 428 when the header is missing, 400 when it cannot be read.
    """
    header = req.get_header("If-Match")
    if header is None:
        detail = 'Say on which version you decided: If-Match: "<version>", as in the ETag.'
        raise Problem(428, "if_match_missing", detail)
    tag = header.strip()
    if not re.fullmatch(IF_MATCH, tag):
        raise Problem(400, "bad_if_match", 'If-Match takes one version in double quotes, for example "5", or *.')
    if tag == "*":
        return None
    return int(tag.strip('"')) if _VERSION.fullmatch(tag) else 0


def client_precondition(req: Request) -> Precondition:
    """What If-Match or If-None-Match says that a directory entry is: `"5"`, there (`*`), or not there yet (`*`).

    Raises Problem with status 400 for both of them, for several tags, and for what cannot be kept.
    """
    match, none_match = req.get_header("If-Match"), req.get_header("If-None-Match")
    if match is not None and none_match is not None:
        raise Problem(400, "bad_if_match", "Send If-Match or If-None-Match, not both.")
    if none_match is not None:
        if none_match.strip() != "*":
            detail = "Here If-None-Match takes * alone: only where there is no entry yet. For a version, send If-Match."
            raise Problem(400, "bad_if_none_match", detail)
        return Precondition(exists=False)
    if match is None:
        return NO_PRECONDITION
    if match.strip() == "*":
        return Precondition(exists=True)
    if not re.fullmatch(r'"[^"]*"', match.strip()):
        raise Problem(400, "bad_if_match", 'If-Match takes one version in double quotes, for example "5", or *.')
    return Precondition(version=expected_version(req))


def require_kept(req: Request, kept: Collection[str]) -> None:
    """Raises Problem with status 400 where a request that changes something names a condition that is not kept here.

    `If-Match: *` asks for no more than that it is there, which every such request does.
    """
    for name in PRECONDITIONS:
        value = None if name in kept else req.get_header(name)
        if value is not None and (name, value.strip()) != ("If-Match", "*"):
            detail = f"{name} is not kept here: nothing is done. Send the request without it."
            raise Problem(400, "precondition_not_kept", detail)


def idempotency_key(req: Request) -> str | None:
    """The key under which the request may be sent again; quotes around it, as RFC 9651 writes a string, are not part.

    Raises Problem: 400 when it is empty, too long, or not printable ASCII.
    """
    header = req.get_header("Idempotency-Key")
    if header is None:
        return None
    written = header.strip()
    if sum(name == b"idempotency-key" for name, _ in req.scope["headers"]) > 1:
        raise Problem(400, "bad_idempotency_key", "Two keys came, and nobody can tell which one is meant: send one.")
    if not _IDEMPOTENCY_KEY.fullmatch(written):
        detail = "Idempotency-Key takes 1 to 255 printable ASCII characters: a UUID, for example."
        raise Problem(400, "bad_idempotency_key", detail)
    return written.removeprefix('"').removesuffix('"')


def idempotency_request(req: Request, answer: Callable[[Outcome], bytes]) -> IdempotencyRequest | None:
    """That the caller wants this request done once; None without an Idempotency-Key. The body has been read."""
    key = idempotency_key(req)
    if key is None:
        return None
    request = f"{req.method} {req.path}\n".encode() + req.context.body
    return IdempotencyRequest(req.context.who.id, key, sha256(request).digest(), answer)


def prefer_wait(req: Request) -> int | None:
    """The seconds that the client wants to wait for the projections, at most 30; None without such a wish."""
    wish = req.get_header("Prefer")
    found = _PREFER_WAIT.search(wish) if wish else None
    return min(int(found["seconds"]), MOST_WAIT_SECONDS) if found else None


def trace(req: Request) -> Trace:
    """Where a request comes from: what is not well-formed is not kept."""
    correlation = req.get_header("X-Correlation-Id") or ""
    well_formed = correlation.isprintable() and len(correlation) <= 200
    return Trace(None, correlation if correlation and well_formed else None, traceparent(req))
