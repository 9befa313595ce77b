"""The settings: the only place that reads the environment."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import parseaddr
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from application.identity.token_claims import Claims, read_algorithms, read_claims, read_grants
from application.webhooks.address_rules import read_hosts
from application.webhooks.signing import read_keys

SETTING_MOST_DIGITS = 10


class SettingsError(Exception):
    """A setting has a value that the desk cannot use; the message names it and what it accepts."""


class Settings(msgspec.Struct, frozen=True):
    """What can be set, with its default. Each field's variable and meaning stand in docs/reference/settings.md."""

    database_url: str | None = None
    data_dir: Path = Path(".deskledger")
    smtp_url: str | None = None
    mail_from: str = "Service desk <desk@localhost>"
    four_eyes: bool = True
    reopen_days: int = 14
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    log_level: str = "info"
    access_log: bool = True
    metrics: bool = True
    otlp_endpoint: str | None = None
    cors_origins: str | None = None
    streams: int = 200
    streams_each: int = 50
    unread_seconds: int = 30
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_jwks_url: str | None = None
    oidc_jwks_file: Path | None = None
    oidc_algorithms: str = "RS256,ES256,EdDSA"
    oidc_claims: str = msgspec.json.encode(Claims()).decode()
    oidc_roles: str | None = None
    rate_limit: int = 0
    failed_sign_ins: int = 120
    trusted_proxies: str | None = None
    idempotency_hours: int = 72
    webhook_allow_networks: str | None = None
    webhook_allow_http: bool = False
    webhook_hosts: str | None = None
    webhook_keys: str | None = None

    @property
    def reopen_window(self) -> timedelta:
        """How long a closed ticket can be reopened."""
        return timedelta(days=self.reopen_days)


def environment_for(settings: Settings) -> dict[str, str]:
    """The environment for a part in a process of its own: ours, with these settings in it."""
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url or "",
        "DESKLEDGER_DATA_DIR": str(settings.data_dir),
        "DESKLEDGER_SMTP_URL": settings.smtp_url or "",
        "DESKLEDGER_HOST": settings.host,
        "DESKLEDGER_PORT": str(settings.port),
    }


def environment_without_settings() -> dict[str, str]:
    """The environment without any setting of ours: for a desk that is to have the defaults."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def _split(value: str, expected: str) -> SplitResult:
    """The parts of a URL. What `urlsplit` itself says of a bad one may quote a password."""
    try:
        url = urlsplit(value)
        url.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError(expected) from None
    return url


def _database_url(value: str) -> str:
    expected = "a URL like postgresql://user:password@host:5432/name"
    try:
        known = conninfo_to_dict(value)
        ports = [int(port) for port in str(known.get("port") or 5432).split(",") if port]
    except (psycopg.Error, ValueError):
        raise ValueError(expected) from None
    if not value.startswith(("postgresql://", "postgres://")) or not all(0 < port < 65536 for port in ports):
        raise ValueError(expected)
    return value


def _smtp_url(value: str) -> str:
    expected = "a URL like smtp://user:password@host:587 or smtps://host:465, with a port from 1 to 65535"
    url = _split(value, expected)
    if url.scheme not in ("smtp", "smtps") or not url.hostname:
        raise ValueError(expected)
    return value


def _address(value: str) -> str:
    name, address = parseaddr(value)
    try:
        Address(name, addr_spec=address)
    except (ValueError, HeaderParseError, IndexError):
        address = ""
    if "@" not in address:
        raise ValueError("an e-mail address, with or without a name: Service desk <desk@example.org>")
    return value


def https_url(value: str) -> str:
    """Whoever could change what comes from there could sign: so it comes by TLS, or does not leave the machine."""
    expected = "a URL like https://id.example.org/desk, without user and fragment; http on this machine only"
    try:
        url = urlsplit(value)
        safe = url.scheme == "https" or (url.scheme == "http" and _at_home(url.hostname or ""))
        plain = safe and url.hostname and not (url.username or url.fragment or value.split() != [value])
        url.port  # noqa: B018 - reading it checks it
    except ValueError:
        plain = None
    if not plain:
        raise ValueError(expected)
    return value


def _at_home(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _networks(value: str) -> str:
    try:
        for part in value.split(","):
            ip_network(part.strip())
    except ValueError:
        raise ValueError("addresses or networks, separated by commas, like 10.0.0.7,fd00::/64") from None
    return value


def _checked(read: Callable[[str], Any]) -> Callable[[str], str]:
    """The text itself, once it could be read."""

    def text(value: str) -> str:
        read(value)
        return value

    return text


def _http_url(value: str) -> str:
    expected = "a URL like http://localhost:4318"
    url = _split(value, expected)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(expected)
    return value


def _origins(value: str) -> str:
    expected = "origins like https://desk.example.org, separated by commas, or * for every one"
    for origin in value.split(",") if value != "*" else ():
        url = _split(origin, expected)
        if url.scheme not in ("http", "https") or not url.netloc or origin != f"{url.scheme}://{url.netloc}":
            raise ValueError(expected)
    return value


def _switch(value: str) -> bool:
    words = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    if value.lower() not in words:
        raise ValueError("on or off")
    return words[value.lower()]


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (
            value.isascii() and value.isdecimal() and len(value) < SETTING_MOST_DIGITS and least <= int(value) <= most
        ):
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.lower() not in words:
            raise ValueError("one of " + ", ".join(words))
        return value.lower()

    return read


def _word(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("a text that is not blank")
    return value


VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    # variable: (field, reader); the reader's ValueError says what the variable accepts
    "DATABASE_URL": ("database_url", _database_url),
    "DESKLEDGER_DATA_DIR": ("data_dir", lambda value: Path(_word(value))),
    "DESKLEDGER_SMTP_URL": ("smtp_url", _smtp_url),
    "DESKLEDGER_MAIL_FROM": ("mail_from", _address),
    "DESKLEDGER_FOUR_EYES": ("four_eyes", _switch),
    "DESKLEDGER_REOPEN_DAYS": ("reopen_days", _number(0, 3650)),
    "DESKLEDGER_HOST": ("host", _word),
    "DESKLEDGER_PORT": ("port", _number(1, 65535)),
    "DESKLEDGER_WORKERS": ("workers", _number(1, 64)),
    "DESKLEDGER_LOG_LEVEL": ("log_level", _one_of("debug", "info", "warning", "error")),
    "DESKLEDGER_ACCESS_LOG": ("access_log", _switch),
    "DESKLEDGER_METRICS": ("metrics", _switch),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("otlp_endpoint", _http_url),
    "DESKLEDGER_CORS_ORIGINS": ("cors_origins", _origins),
    "DESKLEDGER_STREAMS": ("streams", _number(1, 10_000)),
    "DESKLEDGER_STREAMS_EACH": ("streams_each", _number(1, 10_000)),
    "DESKLEDGER_UNREAD_SECONDS": ("unread_seconds", _number(1, 3600)),
    "DESKLEDGER_OIDC_ISSUER": ("oidc_issuer", https_url),
    "DESKLEDGER_OIDC_AUDIENCE": ("oidc_audience", _word),
    "DESKLEDGER_OIDC_JWKS_URL": ("oidc_jwks_url", https_url),
    "DESKLEDGER_OIDC_JWKS_FILE": ("oidc_jwks_file", lambda value: Path(_word(value))),
    "DESKLEDGER_OIDC_ALGORITHMS": ("oidc_algorithms", _checked(read_algorithms)),
    "DESKLEDGER_OIDC_CLAIMS": ("oidc_claims", _checked(read_claims)),
    "DESKLEDGER_OIDC_ROLES": ("oidc_roles", _checked(read_grants)),
    "DESKLEDGER_RATE_LIMIT": ("rate_limit", _number(0, 100_000)),
    "DESKLEDGER_FAILED_SIGN_INS": ("failed_sign_ins", _number(0, 100_000)),
    "DESKLEDGER_TRUSTED_PROXIES": ("trusted_proxies", _networks),
    "DESKLEDGER_IDEMPOTENCY_HOURS": ("idempotency_hours", _number(24, 8760)),
    "DESKLEDGER_WEBHOOK_ALLOW_NETWORKS": ("webhook_allow_networks", _networks),
    "DESKLEDGER_WEBHOOK_ALLOW_HTTP": ("webhook_allow_http", _switch),
    "DESKLEDGER_WEBHOOK_HOSTS": ("webhook_hosts", _checked(read_hosts)),
    "DESKLEDGER_WEBHOOK_KEYS": ("webhook_keys", _checked(read_keys)),
}


SECRET = frozenset(  # they may hold a password, so their values are not shown
    {
        "DATABASE_URL",
        "DESKLEDGER_SMTP_URL",
        "DESKLEDGER_WEBHOOK_KEYS",
        "DESKLEDGER_OIDC_ISSUER",
        "DESKLEDGER_OIDC_JWKS_URL",
    }
)


def read_settings(environment: Mapping[str, str] | None = None, **chosen: Any) -> Settings:
    """The settings of the environment; a value in `chosen` that is not None wins (the command line's options).

    Raises SettingsError with one line that names the variable and what it accepts. An empty variable counts as unset.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for variable, (field, reader) in VARIABLES.items():
        if value := environment.get(variable):
            try:
                values[field] = reader(value)
            except ValueError as error:
                shown = variable if variable in SECRET else f"{variable}={value!r}"
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
