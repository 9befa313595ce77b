"""From what came over the wire to values: bodies, parameters and headers. What is wrong is said here, and only here."""

import re
from typing import Any, TypeVar

import falcon
import msgspec
from falcon.asgi import Request

from api.problems import Problem
from application.command import ADDRESS, ONE_LINE, SAYS_SOMETHING, SHA256, USER_ID
from application.deciding import Trace

MOST_BYTES = 1024 * 1024
Wanted = TypeVar("Wanted", bound=msgspec.Struct)
PLAIN_WORDS = {  # what msgspec says of a pattern, for people
    SAYS_SOMETHING: "it must say something: not blank, and without NUL characters",
    ONE_LINE: "it must be one line that says something, without control characters",
    ADDRESS: "it must be an e-mail address like name@example.org",
    USER_ID: "a user ID has letters, digits and . _ @ + - and begins with a letter or digit",
    SHA256: "it must be a SHA-256: 64 digits from 0-9 and a-f",
}
_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")
_ETAG = re.compile(r'^(?P<weak>W/)?"(?P<tag>[^"]*)"$')
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])")
MOST_WAIT_SECONDS = 30


class Decoders:
    """The decoders of the bodies, each made once."""

    def __init__(self) -> None:
        self._known: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}

    async def body(self, req: Request, wanted: type[Wanted]) -> Wanted:
        """The body as a struct. An empty body stands for one without fields.

        Raises Problem: 400 malformed JSON, 413 too large, 415 not JSON, 422 not what the command takes.
        """
        raw = await read_body(req)
        if raw and (req.content_type or "").partition(";")[0].strip().lower() != "application/json":
            raise Problem(415, "not_json", "Send the body as JSON, with Content-Type: application/json.")
        decoder = self._known.get(wanted) or self._known.setdefault(wanted, msgspec.json.Decoder(wanted))
        try:
            value: Wanted = decoder.decode(raw or b"{}")
        except msgspec.ValidationError as error:
            raise invalid(422, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, "malformed_json", f"The body is not JSON in UTF-8: {error}.") from None
        return value


async def read_body(req: Request) -> bytes:
    """The bytes of the body, at most 1 MiB."""
    if (req.content_length or 0) > MOST_BYTES:
        raise Problem(413, "body_too_large", f"A body has at most {MOST_BYTES} bytes.")
    raw = bytearray()
    async for chunk in req.stream:
        raw += chunk
        if len(raw) > MOST_BYTES:
            raise Problem(413, "body_too_large", f"A body has at most {MOST_BYTES} bytes.")
    return bytes(raw)


def invalid(status: int, error: msgspec.ValidationError) -> Problem:
    """A value that does not fit, with the JSON pointer of where it stands."""
    text = str(error)
    found = _PATH.search(text)
    said = text[: found.start()] if found else text
    pointer = found["path"].removeprefix("$").replace("[...]", "/-").replace("[", "/").replace("]", "") if found else ""
    pointer = pointer.replace(".", "/")
    said = next((plain for pattern, plain in PLAIN_WORDS.items() if repr(pattern) in said), said)
    detail = f"{pointer or 'The request'}: {said}."
    code = "invalid_body" if status == 422 else "invalid_parameter"
    return Problem(status, code, detail, [{"pointer": pointer, "detail": said}])


def parameters(req: Request, wanted: type[Wanted]) -> Wanted:
    """The query parameters as a struct; an unknown, repeated or mistyped one is a Problem with status 400."""
    if any("\0" in str(value) for value in req.params.values()):
        raise Problem(400, "invalid_parameter", "A parameter holds a NUL character: leave it out.")
    try:
        return msgspec.convert(req.params, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(400, error) from None


def expected_version(req: Request) -> int | None:
    """The version in If-Match: `"5"`; None for `*`. A weak or foreign tag can never match, so it is version -1.

    Raises Problem: 428 when the header is missing, 400 when it cannot be read.
    """
    header = req.get_header("If-Match")
    if header is None:
        raise Problem(
            428, "if_match_missing", 'Say on which version you decided: If-Match: "<version>", as in the ETag.'
        )
    if header.strip() == "*":
        return None
    tag = _ETAG.match(header.strip())
    if tag is None:
        raise Problem(400, "bad_if_match", 'If-Match takes one version in double quotes, for example "5", or *.')
    known = not tag["weak"] and tag["tag"].isascii() and tag["tag"].isdecimal() and len(tag["tag"]) < 10
    return int(tag["tag"]) if known else -1


def prefer_wait(req: Request) -> int | None:
    """The seconds that the client wants to wait for the projections, at most 30; None without such a wish."""
    found = _PREFER_WAIT.search(req.get_header("Prefer") or "")
    return min(int(found[1]), MOST_WAIT_SECONDS) if found else None


def trace(req: Request) -> Trace:
    """Where a request comes from: what is not well-formed is not kept."""
    correlation = req.get_header("X-Correlation-Id")
    parent = req.get_header("traceparent")
    return Trace(
        None,
        correlation if correlation and len(correlation) <= 200 and correlation.isprintable() else None,
        parent if parent and _TRACEPARENT.match(parent) else None,
    )


def ascii_header(value: str) -> str:
    """A value that can stand in a header."""
    return value.encode("ascii", "replace").decode()


HTTPError = falcon.HTTPError
