"""The commands of whoever runs the desk: migrations and keys."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from api.cli.command_errors import CommandError
from application.clock import utc_now
from application.identity.api_keys import NewKey, create_key, list_keys, revoke_key
from application.settings import Settings
from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import database_url
from application.store.snapshots import take_all_snapshots
from projections.engine.parking import replay
from projections.engine.projection import Projection
from projections.runner import PROJECTIONS, ensure_projections


def migrate_all(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger migrate`."""
    with database_url(settings.database_url, settings.data_dir) as url, connect(url, "migrate") as connection:
        done = [*migrate(connection), *(f"projection {name}" for name in ensure_projections(connection))]
        take_all_snapshots(connection)  # not only of what will change again: the worker may come late
    print("\n".join(f"applied {name}" for name in done) or "the schema is up to date")


def keys_create(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys create`: the key is alone on the last line of standard output."""
    wanted = NewKey(options.name, options.role, options.level, options.client, options.expires)
    with database_url(settings.database_url, settings.data_dir) as url, connect(url, "keys") as connection:
        migrate(connection)
        id_, key = create_key(connection, wanted, utc_now())
    print(f"created {id_}; this is the only time that the key is shown:", file=sys.stderr)
    print(key)


def keys_list(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys list`: a table on a terminal, tab-separated lines when piped."""
    with database_url(settings.database_url, settings.data_dir) as url, connect(url, "keys") as connection:
        migrate(connection)
        keys = list_keys(connection)
    now = utc_now()
    header = ("id", "name", "roles", "levels", "client", "created", "used", "ends", "state")
    rows = [
        (
            key.id,
            key.name,
            " ".join(key.roles),
            " ".join(key.levels),
            key.client_user_id or "",
            day(key.created_at),
            minute(key.last_used_at),
            day(key.expires_at),
            "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= now else "valid",
        )
        for key in keys
    ]
    show(header, rows)


def keys_revoke(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys revoke`."""
    with database_url(settings.database_url, settings.data_dir) as url, connect(url, "keys") as connection:
        migrate(connection)
        if not revoke_key(connection, options.id, utc_now()):
            raise CommandError(f"no valid key has the id {options.id}: see deskledger keys list")
    print(f"revoked {options.id}: it ends within seconds")


def replay_parked(settings: Settings, options: argparse.Namespace) -> int:
    """`deskledger replay`: a line for each stream that was parked. Returns 1 when one still is."""
    chosen = [known_projection(options.projection)] if options.projection else PROJECTIONS
    with (
        database_url(settings.database_url, settings.data_dir) as url,
        connect(url, "replay", statement_seconds=0) as connection,
    ):
        done = [(projection.name, replay(connection, projection)) for projection in chosen]
    rows = [(name, str(stream_id), "healed") for name, replayed in done for stream_id in replayed.healed]
    still = [parked for _, replayed in done for parked in replayed.parked]
    rows += [
        (each.projection, str(each.stream_id), f"{each.type} at {each.since_position}: {each.error}") for each in still
    ]
    if rows:
        show(("projection", "stream", "outcome"), rows)
    else:
        print("nothing is parked")
    return 1 if still else 0


def known_projection(name: str) -> Projection:
    """The projection of that name. Raises CommandError when there is none."""
    known = {projection.name: projection for projection in PROJECTIONS}
    if name not in known:
        raise CommandError(f"there is no projection {name!r}: {', '.join(known)}")
    return known[name]


def day(moment: datetime | None) -> str:
    """A day, or nothing."""
    return f"{moment:%Y-%m-%d}" if moment else ""


def minute(moment: datetime | None) -> str:
    """A minute in UTC, or nothing."""
    return f"{moment:%Y-%m-%dT%H:%MZ}" if moment else ""


def show(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table where somebody is looking, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [header, *rows]))
        return
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
