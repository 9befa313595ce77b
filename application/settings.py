"""The settings: the only place that reads the environment."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec


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


def _database_url(value: str) -> str:
    if urlsplit(value).scheme not in ("postgresql", "postgres"):
        raise ValueError("a URL like postgresql://user:password@host:5432/name")
    return value


def _smtp_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("smtp", "smtps") or not url.hostname:
        raise ValueError("a URL like smtp://user:password@host:587 or smtps://host:465")
    try:
        url.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("a URL whose port is a number from 1 to 65535") from None
    return value


def _address(value: str) -> str:
    if "@" not in parseaddr(value)[1]:
        raise ValueError("an e-mail address, with or without a name: Service desk <desk@example.org>")
    return value


def _switch(value: str) -> bool:
    words = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    if value.lower() not in words:
        raise ValueError("on or off")
    return words[value.lower()]


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdecimal() and least <= int(value) <= most):
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
    if not value.strip():
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
}


SECRET = frozenset({"DATABASE_URL", "DESKLEDGER_SMTP_URL"})  # they may hold a password, so their values are not shown


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
    return Settings(**values)
