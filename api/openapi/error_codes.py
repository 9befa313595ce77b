"""Which problems an operation can be answered with: codes by status, by what it takes."""

from collections.abc import Iterable, Mapping

from api.http.problems import phrase
from domain import errors
from domain.errors import DeskError

Codes = Mapping[int, tuple[str, ...]]

EVERYWHERE: Codes = {406: ("not_acceptable",), 414: ("uri_too_long",), 431: ("headers_too_large",)}
# What can go wrong with the parts of a request: a key, a body, headers, query parameters, and {parts} of the path.
CODES_OF_PARTS: dict[str, Codes] = {
    "key": {
        400: ("bad_request", "invalid_parameter"),
        401: ("key_missing", "key_unknown", "token_invalid"),
        403: ("role_missing",),
        429: ("rate_limited", "too_many_failures"),
        503: ("database_unavailable", "issuer_unavailable"),
    },
    "body": {
        400: ("malformed_json", "body_cut_off"),
        413: ("body_too_large",),
        415: ("not_json", "unsupported_media_type"),
        422: ("invalid_body", "blank_text", "unfit_text"),
        503: ("clock_off",),
    },
    "Idempotency-Key": {400: ("bad_idempotency_key",), 422: ("idempotency_key_reused",)},
    "If-Match": {400: ("bad_if_match",), 412: ("stale_version",)},
    "If-Match, needed": {428: ("if_match_missing",)},
    "changes": {400: ("precondition_not_kept",)},  # every method but GET
    "Last-Event-ID": {400: ("bad_last_event_id",), 429: ("too_many_streams",), 503: ("streams_full",)},
    "cursor": {400: ("bad_cursor",)},
    "to": {400: ("future_time",), 503: ("projection_behind",)},
    "as_of": {400: ("future_time",), 503: ("projection_behind",)},
    "created_to": {400: ("future_time",), 503: ("projection_behind",)},
    "after": {409: ("unknown_position",)},
    "position": {409: ("unknown_position",)},
    "min_position": {503: ("projection_behind",)},
    "min_version": {404: ("unknown_version",), 503: ("projection_behind",)},
    "{ticket_id}": {404: ("unknown_ticket", "not_found"), 503: ("unreadable_event",)},
    "{webhook_id}": {404: ("unknown_webhook", "not_found"), 503: ("secrets_locked",)},
    "{message_id}": {404: ("unknown_mail", "not_found")},
    "{queue}": {404: ("unknown_queue",)},
    "{metric}": {404: ("unknown_metric",)},
}
# What no described operation answers: another method, an address that is none, what is not HTTP, our own mistake.
ELSEWHERE: Codes = {
    404: ("unknown_command", "not_found"),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    500: ("internal_error",),
    501: ("not_implemented",),
    503: ("too_many_connections",),
}


def leaves(kind: type[DeskError]) -> list[type[DeskError]]:
    """The errors that are raised: those that have no kinds below them."""
    below = kind.__subclasses__()
    return [leaf for one in below for leaf in leaves(one)] if below else [kind]


REFUSED: Codes = {409: tuple(error.code for error in leaves(errors.Refused))}


def together(groups: Iterable[Codes]) -> dict[int, tuple[str, ...]]:
    """All codes of some groups, by status, each once."""
    found: dict[int, dict[str, None]] = {}
    for group in groups:
        for status, codes in group.items():
            found.setdefault(status, {}).update(dict.fromkeys(codes))
    return {status: tuple(codes) for status, codes in sorted(found.items())}


def named(status: int) -> str:
    """The name of a status without blanks: "NotFound"."""
    return phrase(status).replace(" ", "").replace("-", "")
