"""The commands of whoever runs the desk: migrations, keys, what is parked."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.cli.command_errors import CommandError
from application.clock import utc_now
from application.identity.api_keys import ApiKey, NewKey, create_key, list_keys, revoke_key
from application.settings import Settings
from application.store.log_identity import begin_log
from application.store.postgres.database import STATEMENT_SECONDS, connect, migrate
from application.store.postgres.embedded_postgres import database_url
from application.store.snapshots import take_all_snapshots
from domain.text import in_one_line
from projections.engine.parking import replay
from projections.engine.projection import Projection
from projections.runner import PROJECTIONS, ensure_projections
from projections.status.lost_references import take_back_tickets


@contextmanager
def open_database(settings: Settings, name: str, seconds: int = STATEMENT_SECONDS) -> Iterator[Connection[Any]]:
    """A connection for statements of so many seconds, 0 for any; the embedded server runs while it is needed here."""
    with database_url(settings.database_url, settings.data_dir) as url, connect(url, name, seconds) as connection:
        yield connection


def migrate_all(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger migrate`."""
    with open_database(settings, "migrate") as connection:
        done = [*migrate(connection), *(f"projection {name}" for name in ensure_projections(connection))]
        take_all_snapshots(connection)  # not only of what will change again: the worker may come late
    print("\n".join(f"applied {name}" for name in done) or "the schema is up to date")


def restored(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger restored`."""
    with open_database(settings, "restored") as connection:
        migrate(connection)
        identity = begin_log(connection)
    print(f"the log is {identity} now: whoever follows it is told to begin again")


def keys_create(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys create`: the key is alone on the last line of standard output."""
    expires_in = timedelta(days=options.expires) if options.expires else None
    wanted = NewKey(options.name, options.role, options.level, options.client, expires_in)
    with open_database(settings, "keys") as connection:
        migrate(connection)
        id_, key = create_key(connection, wanted, utc_now())
    print(f"created {id_}; this is the only time that the key is shown:", file=sys.stderr)
    print(key)


def keys_list(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys list`: a table on a terminal, tab-separated lines when piped."""
    with open_database(settings, "keys") as connection:
        migrate(connection)
        keys = list_keys(connection)
    header = ("id", "name", "roles", "levels", "client", "created", "used", "ends", "state")
    show(header, [_key_row(key) for key in keys])


def _key_row(key: ApiKey) -> tuple[str, ...]:
    expired = key.expires_at and key.expires_at <= utc_now()
    return (
        key.id,
        key.name,
        " ".join(key.roles),
        " ".join(key.levels),
        key.client_user_id or "",
        _moment(key.created_at, "%Y-%m-%d"),
        _moment(key.last_used_at, "%Y-%m-%dT%H:%MZ"),
        _moment(key.expires_at, "%Y-%m-%d"),
        "revoked" if key.revoked_at else "expired" if expired else "valid",
    )


def _moment(moment: datetime | None, form: str) -> str:
    return moment.strftime(form) if moment else ""


def keys_revoke(settings: Settings, options: argparse.Namespace) -> None:
    """`deskledger keys revoke`."""
    with open_database(settings, "keys") as connection:
        migrate(connection)
        if not revoke_key(connection, options.id, utc_now()):
            raise CommandError(f"no valid key has the id {options.id}: see deskledger keys list")
        freed = take_back_tickets(connection, utc_now(), options.id)
    print(f"revoked {options.id}: it ends within seconds")
    for ticket in freed:
        print(f"released {ticket}")


def replay_parked(settings: Settings, options: argparse.Namespace) -> int:
    """`deskledger replay`: a line for each stream that was parked. Returns 1 when one still is."""
    chosen = known_projections([options.projection]) if options.projection else PROJECTIONS
    with open_database(settings, "replay", seconds=0) as connection:
        replayed = [(projection.name, replay(connection, projection)) for projection in chosen]
    healed = [(name, str(stream_id), "healed") for name, done in replayed for stream_id in done.healed]
    parked = [
        (name, str(each.stream_id), f"{each.type} at {each.since_position}: {each.error}")
        for name, done in replayed
        for each in done.parked
    ]
    if healed or parked:
        show(("projection", "stream", "outcome"), [*healed, *parked])
    else:
        print("nothing is parked")
    return 1 if parked else 0


def known_projections(names: Sequence[str]) -> list[Projection]:
    """The projections of those names, each once. Raises CommandError when there is none of a name."""
    known = {projection.name: projection for projection in PROJECTIONS}
    for name in names:
        if name not in known:
            raise CommandError(f"there is no projection {name!r}: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def show(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table where somebody is looking, tab-separated lines elsewhere; nothing in a cell can end it, or colour it."""
    rows = [tuple(map(in_one_line, row)) for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [header, *rows]))
        return
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
