"""The commands of whoever runs the desk: migrations and keys."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from api.errors import CommandError
from application.database import connect, migrate
from application.helpdesk import utc_now
from application.keys import Wanted, create_key, list_keys, revoke_key
from application.postgres import database_url
from application.settings import Settings
from projections.runner import ensure_projections


def migrate_all(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger migrate`."""
    with database_url(settings) as url, connect(url, "migrate") as connection:
        done = [*migrate(connection), *(f"projection {name}" for name in ensure_projections(connection))]
    print("\n".join(f"applied {name}" for name in done) or "the schema is up to date")


def keys_create(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys create`: the key is alone on the last line of standard output."""
    wanted = Wanted(options.name, options.role, options.level, options.client, options.expires)
    with database_url(settings) as url, connect(url, "keys") as connection:
        migrate(connection)
        id_, key = create_key(connection, wanted, utc_now())
    print(f"created {id_}; this is the only time that the key is shown:", file=sys.stderr)
    print(key)


def keys_list(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys list`: a table on a terminal, tab-separated lines when piped."""
    with database_url(settings) as url, connect(url, "keys") as connection:
        migrate(connection)
        keys = list_keys(connection)
    now = utc_now()
    header = ("id", "name", "roles", "levels", "client", "created", "ends", "state")
    rows = [
        (
            key.id,
            key.name,
            " ".join(key.roles),
            " ".join(key.levels),
            key.client_user_id or "",
            day(key.created_at),
            day(key.expires_at),
            "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= now else "valid",
        )
        for key in keys
    ]
    show(header, rows)


def keys_revoke(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys revoke`."""
    with database_url(settings) as url, connect(url, "keys") as connection:
        migrate(connection)
        if not revoke_key(connection, options.id, utc_now()):
            raise CommandError(f"no valid key has the id {options.id}: see deskledger keys list")
    print(f"revoked {options.id}: it ends within seconds")


def day(moment: datetime | None) -> str:
    """A day, or nothing."""
    return f"{moment:%Y-%m-%d}" if moment else ""


def show(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table where somebody is looking, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [header, *rows]))
        return
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
