"""`deskledger rebuild`: a progress bar where somebody is looking, one line for each table at the end."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from api.cli.admin_commands import show
from api.cli.command_errors import CommandError
from application.settings import Settings
from application.store.postgres.database import connect
from application.store.postgres.embedded_postgres import database_url
from projections.engine.process_pool import ProcessPoolError
from projections.engine.projection import Projection
from projections.rebuild.rebuild_projections import REBUILD_PROCESSES, rebuild
from projections.rebuild.retired_tables import NotRetired, UnknownVersion, drop_retired, roll_back
from projections.runner import PROJECTIONS, ensure_projections

PROJECTIONS_BY_NAME = {projection.name: projection for projection in PROJECTIONS}


class Rate(ProgressColumn):
    """Events a second."""

    def render(self, task: Task) -> Text:
        """The present rate."""
        return Text(f"{task.speed or 0:,.0f} events/s")


def rebuild_tables(settings: Settings, options: argparse.Namespace) -> None:
    """Rebuilds the projections that the options name, or does with what is kept of them what the options say."""
    if unknown := [name for name in options.projection if name not in PROJECTIONS_BY_NAME]:
        raise CommandError(f"there is no projection {unknown[0]!r}: {', '.join(PROJECTIONS_BY_NAME)}")
    chosen = [PROJECTIONS_BY_NAME[name] for name in dict.fromkeys(options.projection)]
    with (
        database_url(settings.database_url, settings.data_dir) as url,
        connect(url, "rebuild", statement_seconds=0) as connection,
    ):
        try:
            if options.roll_back:
                _roll_back(connection, chosen)
            elif options.drop_retired:
                _drop(connection, chosen)
            else:
                _rebuild(connection, chosen, options.processes or REBUILD_PROCESSES)
        except (NotRetired, UnknownVersion, ProcessPoolError) as error:
            raise CommandError(str(error)) from error


def _rebuild(connection: psycopg.Connection[Any], chosen: Sequence[Projection], processes: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(", ".join(projection.name for projection in chosen), total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        differences = rebuild(connection, *chosen, progress=progress, processes=processes)
        ensure_projections(connection)
    rows = [
        (each.table, str(each.rows), row_count_text(each.only_old), row_count_text(each.only_new))
        for each in differences
    ]
    show(("table", "rows", "only in the old one", "only in the new one"), rows)


def _roll_back(connection: psycopg.Connection[Any], chosen: Sequence[Projection]) -> None:
    stood = [(projection.name, roll_back(connection, projection)) for projection in chosen]
    ensure_projections(connection)
    show(("projection", "version", "position"), [(name, str(at.version), str(at.position)) for name, at in stood])


def _drop(connection: psycopg.Connection[Any], chosen: Sequence[Projection]) -> None:
    for projection in chosen:
        dropped = drop_retired(connection, projection)
        print(f"{projection.name}: {'dropped' if dropped else 'nothing was kept'}")


def row_count_text(count: int | None) -> str:
    """A number of rows, or that it is not known."""
    return "not compared" if count is None else str(count)
