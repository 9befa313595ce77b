"""`deskledger rebuild`: a progress bar where somebody is looking, one line for each table at the end."""

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from api.admin import show
from api.errors import CommandError
from application.database import connect
from application.postgres import database_url
from application.settings import Settings
from projections.rebuild import rebuild
from projections.runner import PROJECTIONS, ensure_projections


class Rate(ProgressColumn):
    """Events a second."""

    def render(self, task: Task) -> Text:
        """The present rate."""
        return Text(f"{task.speed or 0:,.0f} events/s")


def rebuild_one(settings: Settings, options: argparse.Namespace) -> None:
    """Rebuilds the projection that the options name."""
    known = {projection.name: projection for projection in PROJECTIONS}
    if options.projection not in known:
        raise CommandError(f"there is no projection {options.projection!r}: {', '.join(known)}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
    with database_url(settings) as url, connect(url, "rebuild", statement_seconds=0) as connection, bar:
        task = bar.add_task(options.projection, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        differences = rebuild(connection, known[options.projection], progress)
        ensure_projections(connection)
    rows = [(each.table, str(each.rows), told(each.only_old), told(each.only_new)) for each in differences]
    show(("table", "rows", "only in the old one", "only in the new one"), rows)


def told(count: int | None) -> str:
    """A number of rows, or that it is not known."""
    return "not compared" if count is None else str(count)
