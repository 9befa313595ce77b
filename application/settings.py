"""The settings: one row each, and the only place that reads the environment."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from email.utils import parseaddr
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from application.commands.email_addresses import read_address
from application.identity.token_claims import Claims, read_algorithms, read_claims, read_grants
from application.webhooks.address_rules import read_hosts
from application.webhooks.signing import read_keys

USUAL_ALGORITHMS, USUAL_CLAIMS = "RS256,ES256,EdDSA,Ed25519", msgspec.json.encode(Claims()).decode()
Reader = Callable[[str], Any]  # of a variable's text; its ValueError says what the variable accepts


class SettingsError(Exception):
    """A setting has a value that the desk cannot use; the message names it and what it accepts."""


def _accepts(accepts: str) -> Callable[[Reader], Reader]:
    """For a reader that gives None or raises where it cannot use a text; what it raises may quote a password."""

    def complete(reader: Reader) -> Reader:
        def read(text: str) -> Any:
            with suppress(ValueError, psycopg.Error, IndexError):
                if (value := reader(text)) is not None:
                    return value
            raise ValueError(accepts)

        return read

    return complete


def _checked(reader: Reader) -> Reader:
    """The text itself, once somebody else's reader could read it."""

    def read(text: str) -> str:
        reader(text)
        return text

    return read


def _number(least: int, most: int) -> Reader:
    @_accepts(f"a whole number from {least} to {most}")
    def read(text: str) -> int | None:
        fits = text.isascii() and text.isdecimal() and least <= int(text) <= most
        return int(text) if fits else None

    return read


def _is_url(text: str, *schemes: str) -> bool:
    url = urlsplit(text)
    return url.scheme in schemes and bool(url.hostname) and url.port != 0


@_accepts("a URL like postgresql://user:password@host:5432/name")
def _database_url(text: str) -> str | None:
    ports = str(conninfo_to_dict(text).get("port") or 5432).split(",")
    fits = text.startswith(("postgresql://", "postgres://")) and all(0 < int(port) < 65536 for port in ports if port)
    return text if fits else None


@_accepts("a URL like smtp://user:password@host:587 or smtps://host:465, with a port from 1 to 65535")
def _smtp_url(text: str) -> str | None:
    return text if _is_url(text, "smtp", "smtps") else None


@_accepts("a URL like http://localhost:4318")
def _http_url(text: str) -> str | None:
    return text if _is_url(text, "http", "https") else None


@_accepts("a URL like https://id.example.org/desk, without user and fragment; http on this machine only")
def https_url(text: str) -> str | None:
    """Whoever could change what comes from there could sign: so it comes by TLS, or does not leave the machine."""
    url = urlsplit(text)
    if url.username or url.fragment or text.split() != [text]:
        return None
    at_home = url.scheme == "http" and (url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback)
    return text if _is_url(text, "http" if at_home else "https") else None


@_accepts("an e-mail address, with or without a name, in ASCII before its @: Service desk <desk@example.org>")
def _sender(text: str) -> str | None:
    address = read_address(parseaddr(text)[1], in_house=True)  # raises, if it is none
    return text if address.ascii_email else None  # a mail server may well be unable to send from another


@_accepts("origins like https://desk.example.org, separated by commas, or * for every one")
def _origins(text: str) -> str | None:
    urls = [urlsplit(origin) for origin in text.split(",")]
    plain = ",".join(f"{url.scheme}://{url.netloc}" for url in urls) == text
    return text if text == "*" or (plain and all(_is_url(url.geturl(), "http", "https") for url in urls)) else None


@_accepts("addresses or networks, separated by commas, like 10.0.0.7,fd00::/64")
def _networks(text: str) -> str:
    for part in text.split(","):
        ip_network(part.strip())
    return text


@_accepts("on or off")
def _switch(text: str) -> bool | None:
    words = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    return words.get(text.lower())


@_accepts("one of debug, info, warning, error")
def _log_level(text: str) -> str | None:
    return text.lower() if text.lower() in ("debug", "info", "warning", "error") else None


@_accepts("a text that is not blank")
def _word(text: str) -> str | None:
    return text if text.strip() and "\0" not in text else None


def _path(text: str) -> Path:
    return Path(_word(text))


class Variable(NamedTuple):
    """The environment variable of a setting. The value of a secret one may hold a password, and is not shown."""

    name: str
    read: Reader
    secret: bool = False


class Settings(msgspec.Struct, frozen=True):
    """What can be set, from which variable, with its default. Their meaning stands in docs/reference/settings.md."""

    database_url: Annotated[str | None, Variable("DATABASE_URL", _database_url, secret=True)] = None
    data_dir: Annotated[Path, Variable("DESKLEDGER_DATA_DIR", _path)] = Path(".deskledger")
    smtp_url: Annotated[str | None, Variable("DESKLEDGER_SMTP_URL", _smtp_url, secret=True)] = None
    mail_from: Annotated[str, Variable("DESKLEDGER_MAIL_FROM", _sender)] = "Service desk <desk@localhost>"
    four_eyes: Annotated[bool, Variable("DESKLEDGER_FOUR_EYES", _switch)] = True
    reopen_days: Annotated[int, Variable("DESKLEDGER_REOPEN_DAYS", _number(0, 3650))] = 14
    host: Annotated[str, Variable("DESKLEDGER_HOST", _word)] = "127.0.0.1"
    port: Annotated[int, Variable("DESKLEDGER_PORT", _number(1, 65535))] = 8000
    workers: Annotated[int, Variable("DESKLEDGER_WORKERS", _number(1, 64))] = 2
    log_level: Annotated[str, Variable("DESKLEDGER_LOG_LEVEL", _log_level)] = "info"
    access_log: Annotated[bool, Variable("DESKLEDGER_ACCESS_LOG", _switch)] = True
    metrics: Annotated[bool, Variable("DESKLEDGER_METRICS", _switch)] = True
    otlp_endpoint: Annotated[str | None, Variable("OTEL_EXPORTER_OTLP_ENDPOINT", _http_url)] = None
    cors_origins: Annotated[str | None, Variable("DESKLEDGER_CORS_ORIGINS", _origins)] = None
    streams: Annotated[int, Variable("DESKLEDGER_STREAMS", _number(1, 10_000))] = 200
    streams_each: Annotated[int, Variable("DESKLEDGER_STREAMS_EACH", _number(1, 10_000))] = 50
    unread_seconds: Annotated[int, Variable("DESKLEDGER_UNREAD_SECONDS", _number(1, 3600))] = 30
    oidc_issuer: Annotated[str | None, Variable("DESKLEDGER_OIDC_ISSUER", https_url, secret=True)] = None
    oidc_audience: Annotated[str | None, Variable("DESKLEDGER_OIDC_AUDIENCE", _word)] = None
    oidc_jwks_url: Annotated[str | None, Variable("DESKLEDGER_OIDC_JWKS_URL", https_url, secret=True)] = None
    oidc_jwks_file: Annotated[Path | None, Variable("DESKLEDGER_OIDC_JWKS_FILE", _path)] = None
    oidc_algorithms: Annotated[str, Variable("DESKLEDGER_OIDC_ALGORITHMS", _checked(read_algorithms))] = (
        USUAL_ALGORITHMS
    )
    oidc_claims: Annotated[str, Variable("DESKLEDGER_OIDC_CLAIMS", _checked(read_claims))] = USUAL_CLAIMS
    oidc_roles: Annotated[str | None, Variable("DESKLEDGER_OIDC_ROLES", _checked(read_grants))] = None
    rate_limit: Annotated[int, Variable("DESKLEDGER_RATE_LIMIT", _number(0, 100_000))] = 0
    failed_sign_ins: Annotated[int, Variable("DESKLEDGER_FAILED_SIGN_INS", _number(0, 100_000))] = 120
    trusted_proxies: Annotated[str | None, Variable("DESKLEDGER_TRUSTED_PROXIES", _networks)] = None
    idempotency_hours: Annotated[int, Variable("DESKLEDGER_IDEMPOTENCY_HOURS", _number(24, 8760))] = 72
    webhook_allow_networks: Annotated[str | None, Variable("DESKLEDGER_WEBHOOK_ALLOW_NETWORKS", _networks)] = None
    webhook_allow_http: Annotated[bool, Variable("DESKLEDGER_WEBHOOK_ALLOW_HTTP", _switch)] = False
    webhook_hosts: Annotated[str | None, Variable("DESKLEDGER_WEBHOOK_HOSTS", _checked(read_hosts))] = None
    webhook_keys: Annotated[str | None, Variable("DESKLEDGER_WEBHOOK_KEYS", _checked(read_keys), secret=True)] = None

    @property
    def reopen_window(self) -> timedelta:
        """How long a closed ticket can be reopened."""
        return timedelta(days=self.reopen_days)


# by name: the field that a variable sets, and the variable
VARIABLES: dict[str, tuple[str, Variable]] = {
    hint.__metadata__[0].name: (field, hint.__metadata__[0])
    for field, hint in get_type_hints(Settings, include_extras=True).items()
}


def environment_for(settings: Settings) -> dict[str, str]:
    """The environment for a part in a process of its own: ours, with these settings in it."""
    values = {name: getattr(settings, field) for name, (field, _) in VARIABLES.items()}
    return {**os.environ, **{name: "" if value is None else str(value) for name, value in values.items()}}


def environment_without_settings() -> dict[str, str]:
    """The environment without any setting of ours: for a desk that is to have the defaults."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def read_settings(environment: Mapping[str, str] | None = None, **chosen: Any) -> Settings:
    """The settings of the environment; a value in `chosen` that is not None wins (the command line's options).

    Raises SettingsError with one line that names the variable and what it accepts. An empty variable counts as unset.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name, (field, variable) in VARIABLES.items():
        if value := environment.get(name):
            try:
                values[field] = variable.read(value)
            except ValueError as error:
                shown = name if variable.secret else f"{name}={value!r}"
                raise SettingsError(f"{shown} cannot be used: it takes {error}") from None
    values |= {field: value for field, value in chosen.items() if value is not None}
    settings = Settings(**values)
    _fit_together(settings)
    return settings


def _fit_together(settings: Settings) -> None:
    """Raises SettingsError for settings of which each is fine, but not beside the others."""
    if bool(settings.oidc_issuer) != bool(settings.oidc_audience):
        raise SettingsError(
            "DESKLEDGER_OIDC_ISSUER and DESKLEDGER_OIDC_AUDIENCE belong together: set both, or neither of them"
        )
    if (settings.oidc_jwks_url or settings.oidc_jwks_file) and not settings.oidc_issuer:
        raise SettingsError("DESKLEDGER_OIDC_JWKS_URL and _FILE belong to an issuer: set DESKLEDGER_OIDC_ISSUER too")
    if settings.oidc_jwks_url and settings.oidc_jwks_file:
        raise SettingsError("DESKLEDGER_OIDC_JWKS_URL and DESKLEDGER_OIDC_JWKS_FILE exclude each other: set one")
