"""What the demo shows: a line a move, with colours on a terminal, and below them the queues as a live table."""

from email.message import EmailMessage
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from api.cli.demo.script import Move
from domain.text import in_one_line

PRIORITY_STYLES = {"1": "bold red", "2": "yellow", "3": "green", "4": "cyan", "5": "blue", "none": "dim"}


class Screen:
    """On a terminal, rich draws colours and the table; elsewhere it writes plain lines, and no table."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, *words: str | tuple[str, str]) -> None:
        """One line of texts and texts with their style, at once: whoever follows the pipe sees it.

        What would steer the terminal is shown as a sign.
        """
        shown = (in_one_line(each) if isinstance(each, str) else (in_one_line(each[0]), each[1]) for each in words)
        self._console.print(Text.assemble(*shown))

    def heading(self, title: str) -> None:
        """What the next lines are about, below an empty one."""
        self.say()
        self.say((title, "bold"))

    def step(self, number: str, *words: str | tuple[str, str]) -> None:
        """A line that begins with a step of the procedure."""
        self.say((f"{number:<4}", "bold cyan"), "  ", *words)

    def move(self, move: Move, queue: str, ticket: str) -> None:
        """`T1-4  agent-tier1   escalate             -> Escalated  tier2  T-000002`."""
        step, outcome = _refused(move.refusal) if move.refusal else _recorded(move.records)
        where = f"  {queue}  {ticket}".rstrip()
        self.step(step, (f"{move.who:<12}", "blue"), f"  {move.command:<19}  ", outcome, where)

    def mail(self, mail: EmailMessage) -> None:
        """A mail came in."""
        self.say(("mail", "magenta"), f"  to {mail['To']}  {mail['Subject']}  {mail['Message-ID']}")

    def queues(self, queues: list[dict[str, Any]]) -> None:
        """The nine queues as they stand, with a block for each ticket in its priority's colour."""
        table = Table("queue", "size", "unassigned", "by priority", box=None, header_style="dim")
        for queue in queues:
            counts = queue["by_priority"]
            blocks = [("■" * counts.get(rank, 0), style) for rank, style in PRIORITY_STYLES.items()]
            table.add_row(queue["queue"], str(queue["size"]), str(queue["unassigned"]), Text.assemble(*blocks))
        self._live.update(table, refresh=True)


def _recorded(records: str) -> tuple[str, tuple[str, str]]:
    """The steps that a move has taken, "T1-4" or "1-4", and its events."""
    taken, types = zip(*(record.split() for record in records.split(", ")), strict=True)
    step = taken[0] if taken[0] == taken[-1] else f"{taken[0]}-{taken[-1]}"
    return step, (f"-> {', '.join(types)}", "green")


def _refused(refusal: str) -> tuple[str, tuple[str, str]]:
    status, code, missing = refusal.split()
    first = "" if missing == "-" else f", step {missing} comes first"
    return "-", (f"refused, as it must be: {status} {code}{first}", "yellow")
