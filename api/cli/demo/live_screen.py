"""The demo on a terminal: each move as a line that stays, and below them the queues as a live table."""

import re
import time
from email.message import EmailMessage
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from api.cli.demo.demo_results import ClosedTicket, Findings, StepFound
from api.cli.demo.plain_screen import WELCOME, ScreenLine, one_line, recorded_by

PRIORITY_STYLES = {"1": "bold red", "2": "yellow", "3": "green", "4": "cyan", "5": "blue", "none": "dim"}
BLOCKS = 24
SHA256_TEXT = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


class LiveScreen:
    """Colours where the terminal has them; NO_COLOR is respected."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._title, self._number, self._total = "starting database, server, worker and mail server", 0, 0
        self._queues: list[dict[str, Any]] = []
        self._mails: list[EmailMessage] = []
        self._live = Live(console=console, get_renderable=self._dashboard, transient=True, refresh_per_second=8)

    def begin(self) -> None:
        """Says that the desk is being started."""
        self._console.print(Text(WELCOME, style="bold"))
        self._live.start()

    def started(self, seconds: float) -> None:
        """The desk runs."""
        self._say(Text(f"started database, server, worker and mail server in {seconds:.1f} s", style="dim"))

    def heading(self, title: str, number: int, total: int) -> None:
        """A path begins."""
        self._title, self._number, self._total = title, number, total
        self._say(Text(f"\n{f'{number}/{total}  ' if number else ''}{title}", style="bold"))

    def line(self, line: ScreenLine) -> None:
        """A move was played."""
        text = Text.assemble(
            (f"{line.step:>4}", "bold cyan"), f" {line.number:<8} ", (f"{line.who:<12}", "blue"), f" {line.command} "
        )
        if line.kind == "done":
            text.pad_right(max(0, 44 - text.cell_len))
            text.append_text(Text.assemble(" → ", (_span(line.outcome), "green"), f"  {line.where}"))
        elif line.kind == "refused":
            text.append_text(Text.assemble(("refused, as it must be: ", "yellow"), line.outcome[0]))
        else:
            text.append_text(Text("DEVIATES: " + "; ".join(line.outcome), style="bold red"))
        self._say(text, whole=line.kind == "deviates")

    def mail(self, mail: EmailMessage) -> None:
        """A mail came in."""
        self._mails.append(mail)
        self._say(Text.assemble(("mail ", "bold magenta"), str(mail["Subject"])))

    def queues(self, queues: list[dict[str, Any]]) -> None:
        """The nine queues as they stand."""
        self._queues = queues

    def report(self, findings: Findings) -> None:
        """What the auditor found."""
        self._live.stop()
        print_ = self._console.print
        print_(_heading("The procedure, step by step, and the first event of each type that recorded it"))
        print_(_steps(findings.steps))
        print_(_heading("Closings, and the mails that they caused"))
        print_(_closings(findings.closings))
        print_(_heading(f"Timeline of {findings.timeline_number}"))
        print_(_timeline(findings.timeline))
        print_()
        for deviation in findings.deviations:
            print_(Text(f"DEVIATES: {deviation}", style="bold red"))
        print_(Text(", ".join(f"{figure} {name}" for name, figure in findings.figures.items())))

    def end(self, verdict: str, good: bool) -> None:
        """The last line."""
        self._console.print(Text(verdict, style="bold green" if good else "bold red"))

    def close(self) -> None:
        """Takes the live table away, whatever has happened."""
        self._live.stop()

    def _say(self, text: Text, whole: bool = False) -> None:
        self._console.print(text, no_wrap=not whole, overflow="fold" if whole else "ellipsis", highlight=False)

    def _dashboard(self) -> RenderableType:
        place = f"{self._number}/{self._total} " if self._number else ""
        elapsed = f"{time.monotonic() - self._began:.0f} s"
        title = Text(f"{place}{self._title} · {elapsed}", style="bold", no_wrap=True, overflow="ellipsis")
        if not self._queues:
            return Rule(title, style="dim")
        mails = Text(f"mails received: {len(self._mails)}", style="magenta", no_wrap=True, overflow="ellipsis")
        for mail in self._mails[-1:]:
            mails.append(f"  latest: {mail['Subject']}", style="not bold")
        return Group(Rule(title, style="dim"), _queue_table(self._queues), mails)


def _queue_table(queues: list[dict[str, Any]]) -> Table:
    """Nine rows: size, unassigned, by priority, and a block for each ticket in its priority's colour."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("queue", min_width=15)
    for name in ("size", "unassigned", *(f"P{rank}" for rank in range(1, 6)), "none"):
        table.add_column(name, justify="right", min_width=3)
    table.add_column("", no_wrap=True)
    for queue in queues:
        counts = queue["by_priority"]
        blocks = Text()
        for rank, style in PRIORITY_STYLES.items():
            blocks.append("■" * min(counts.get(rank, 0), BLOCKS), style=style)
        figures = [Text(str(counts.get(rank) or "·"), style=PRIORITY_STYLES[rank]) for rank in PRIORITY_STYLES]
        style = "bold" if queue["size"] else "dim"
        name, size, free = queue["queue"], str(queue["size"]), str(queue["unassigned"])
        table.add_row(name, size, free, *figures, blocks, style=style)
    return table


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _steps(steps: list[StepFound]) -> Table:
    table = _table("step", "recorded by", last="procedure")
    for found in steps:
        by = Text("\n".join(recorded_by(found, " ×{}")), style="green" if found.events else "bold red")
        table.add_row(Text(found.step.number, style="bold cyan"), by, found.step.says)
    return table


def _closings(closings: list[ClosedTicket]) -> Table:
    table = _table("step", "ticket", "closed at", "its mail", last="Message-ID")
    for closing in closings:
        arrived = Text("received", style="green") if closing.received else Text("NOT RECEIVED", style="bold red")
        step, position = Text(closing.step, style="bold cyan"), Text(str(closing.position), justify="right")
        table.add_row(step, closing.number, position, arrived, _cut(closing.message_id or ""))
    return table


def _timeline(events: list[dict[str, Any]]) -> Table:
    table = _table("time", "step", "actor", "role", last="what happened")
    for event in events:
        actor, step = event["actor"], Text(event["step"] or "", style="bold cyan")
        table.add_row(event["at"][11:19], step, actor["name"], actor["role"], _short(event["words"]))
    return table


def _table(*names: str, last: str) -> Table:
    """A table whose last column takes what room the others leave."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    table.add_column(last)
    return table


def _cut(words: str) -> Text:
    """Words that end where their column ends."""
    return Text(words, no_wrap=True, overflow="ellipsis")


def _short(words: str) -> str:
    """Words on one line, of a hash only its beginning."""
    return SHA256_TEXT.sub(r"\1…", one_line(words))


def _span(events: tuple[str, ...]) -> str:
    """One or two events by name, more of them from the first to the last."""
    return ", ".join(events) if len(events) < 3 else f"{events[0]} … {events[-1]}"
