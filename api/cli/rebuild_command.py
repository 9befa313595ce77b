"""`deskledger rebuild`: a progress bar where somebody is looking, one line for each table at the end."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from api.cli.admin_commands import known_projections, open_database, show
from api.cli.command_errors import CommandError
from application.settings import Settings
from projections.engine.process_pool import ProcessPoolError
from projections.engine.projection import Projection
from projections.rebuild.rebuild_projections import rebuild
from projections.rebuild.retired_tables import NotRetired, UnknownVersion, drop_retired, roll_back
from projections.runner import ensure_projections


def rebuild_tables(settings: Settings, options: argparse.Namespace) -> None:
    """Rebuilds the projections that the options name, or does with what is kept of them what the options say."""
    chosen = known_projections(options.projection)
    with open_database(settings, "rebuild", seconds=0) as connection:
        try:
            if options.roll_back:
                _roll_back(connection, chosen)
            elif options.drop_retired:
                _drop(connection, chosen)
            else:
                _rebuild(connection, chosen, options.processes)
        except (NotRetired, UnknownVersion, ProcessPoolError) as error:
            raise CommandError(str(error)) from error


def _rebuild(connection: psycopg.Connection[Any], chosen: Sequence[Projection], processes: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(", ".join(projection.name for projection in chosen), total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        differences = rebuild(connection, *chosen, progress=progress, processes=processes)
        ensure_projections(connection)
    rows = [(each.table, str(each.rows), _differing(each.only_old), _differing(each.only_new)) for each in differences]
    show(("table", "rows", "only in the old one", "only in the new one"), rows)


def _differing(count: int | None) -> str:
    return "not compared" if count is None else str(count)


def _roll_back(connection: psycopg.Connection[Any], chosen: Sequence[Projection]) -> None:
    stood = [(projection.name, roll_back(connection, projection)) for projection in chosen]
    ensure_projections(connection)
    show(("projection", "version", "position"), [(name, str(at.version), str(at.position)) for name, at in stood])


def _drop(connection: psycopg.Connection[Any], chosen: Sequence[Projection]) -> None:
    for projection in chosen:
        dropped = drop_retired(connection, projection)
        print(f"{projection.name}: {'dropped' if dropped else 'nothing was kept'}")
