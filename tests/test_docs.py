"""The documentation says what is so: the commands of the README run, and the reference names all that there is."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import metadata
from inspect import getsource
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

import falcon.inspect
import msgspec
import psycopg
import pytest

from api.cli.command_line import parser
from api.http.app import create_app
from api.http.problems import CODES, STATUS
from api.http.resources.client_resources import PageParameters
from api.http.resources.closure_mail_resources import MailParameters
from api.http.resources.event_resources import FeedParameters
from api.http.resources.queue_resources import OverviewParameters, QueueParameters
from api.http.resources.report_resources import ReportParameters
from api.http.resources.service.contract_resources import REDOC
from api.http.resources.ticket_commands import COMMANDS_WITHOUT_VERSION
from api.http.resources.ticket_resources import HistoryParameters, ListParameters, TicketParameters
from api.http.resources.webhook_admin.webhook_messages import DeliveryParameters, WebhookParameters
from application.commands import text_types as forms
from application.commands.command import Opening
from application.commands.procedure_commands import COMMANDS, DocumentIssue, OpenTicket, ReceiveRequest, RequestSender
from application.commands.supporting_commands import ClaimNext, RegisterClient
from application.settings import VARIABLES, Settings
from domain import decisions, errors
from domain import events as e
from domain.client import CLIENT_EVENTS, EVENTS
from domain.procedure import COMES_FIRST, ENDED, MANAGER_STATES, OPEN_STATES, PROCEDURE, Refusals, Timing, step_of
from domain.roles import MAY, MAY_READ
from domain.rules import LINK_RULES, RULES, Given
from domain.ticket import Ticket
from domain.values import Channel, Grade, Level, Relation, Sender, State, Visibility
from projections.runner import PROJECTIONS
from tests.support.given import LATER, QUALITY, after, given_by, ticket_in
from tests.support.procedure_tables import COMMANDS as WAYS
from tests.support.procedure_tables import STEPS
from tests.support.reference_pages import DECISIONS, FENCE, README, REFERENCE, ROOT, lines, spans, tables
from tests.support.running_desk import free_port, needs_curl, wait_until

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
PAGES = [README, ARCHITECTURE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_HAND = ("make run", "make test")  # they would start everything anew: they are compared with the Makefile instead
PACKAGES = ("domain", "application", "projections", "api")
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
MARK = "\x1eblock {}\n"

# ── The README runs ─────────────────────────────────────────────────────────────────────────────────────────


class Block(msgspec.Struct, frozen=True):
    """A block of commands and the output that is shown below it; None when none is shown."""

    commands: str
    shown: str | None

    @property
    def by_hand(self) -> bool:
        """Whether the test does not run it."""
        return self.commands.strip() in BY_HAND


def blocks(page: Path) -> list[Block]:
    """The blocks of commands of a page, in order."""
    fences = [(fence["kind"], fence["text"]) for fence in FENCE.finditer(page.read_text())]
    followers = [*fences[1:], ("", "")]
    return [
        Block(text, shown if then in ("json", "text") else None)
        for (kind, text), (then, shown) in zip(fences, followers, strict=True)
        if kind == "sh"
    ]


def fits(shown: str, said: str) -> bool:
    """Whether an output is as shown; "…" stands for anything in a line, and alone in a line for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, said) is not None


class Desk(msgspec.Struct, frozen=True):
    """A running desk: where it answers, its environment, and what it said when it started."""

    address: str
    environment: dict[str, str]
    said: str


@pytest.fixture(scope="module")
def desk(embedded: None) -> Iterator[Desk]:
    """What `make run` starts, in a directory and on a port of its own."""
    directory = Path(tempfile.mkdtemp(prefix="deskledger-readme-"))
    directory.chmod(0o755)  # PostgreSQL runs as somebody else when root starts it
    port = free_port()
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DESKLEDGER_", "DATABASE_URL"))}
    environment = ours | {"DESKLEDGER_PORT": str(port), "DESKLEDGER_DATA_DIR": str(directory / "data")}
    output = directory / "output"
    with output.open("wb") as out, (directory / "log").open("wb") as log:
        command = [Path(sys.executable).with_name("deskledger"), "serve"]
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=log)
    try:
        over = "/v1/queues\n\n"  # the end of what it says
        wait_until(lambda: process.poll() is not None or output.read_text().endswith(over), "the desk is ready")
        yield Desk(f"http://127.0.0.1:{port}", environment, output.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(directory)


def run(desk: Desk, page: Path, directory: Path) -> list[str]:
    """What each block of a page prints, all of them run in one session of bash that ends at the first error."""
    session = "".join(
        f"printf '{MARK.format(number)}'\n{'' if block.by_hand else block.commands}"
        for number, block in enumerate(blocks(page))
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = desk.environment | {"PATH": path, "DESK": desk.address}
    done = subprocess.run(
        ["bash", "-e", "-c", session], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(MARK.format(r"\d+"), done.stdout)[1:]


@needs_curl
def test_the_readme_runs_and_prints_what_it_shows(desk: Desk, tmp_path: Path) -> None:
    """Every block of commands runs, in order, in one session, and prints what is shown below it."""
    printed = run(desk, README, tmp_path)
    for block, said in zip(blocks(README), printed, strict=True):
        if block.shown is not None and not block.by_hand:
            assert fits(block.shown, said), f"{block.commands}\nis shown to print\n{block.shown}\nand prints\n{said}"


def test_make_run_says_what_the_readme_shows(desk: Desk) -> None:
    """What `make run` starts says where it answers, gives an admin key, and goes on as the README shows."""
    shown = next(block.shown for block in blocks(README) if block.commands.strip() == "make run")
    assert shown
    assert fits(shown, desk.said.replace(desk.address, DEFAULT_ADDRESS)), desk.said


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """The commands that are not run here are there to make, and each stands in the README once."""
    assert [block.commands.strip() for block in blocks(README) if block.by_hand] == list(BY_HAND)
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.removeprefix("make ") for command in BY_HAND} <= set(targets)


def test_a_placeholder_stands_for_what_changes_and_for_nothing_else() -> None:
    """ "…" stands for a part of a line, or alone for whole lines; every other difference is one."""
    assert fits('{\n  "id": "…",\n  …\n}\n', '{\n  "id": "x",\n  "a": 1,\n  "b": 2\n}\n')
    assert not fits('{"id": "…"}\n', '{"id": "x",\n"a": 1}\n')
    assert not fits("2 open\n", "2 open\n3 closed\n")
    assert not fits("a.c\n", "abc\n")


# ── The pictures of the procedure ───────────────────────────────────────────────────────────────────────────

ARROW = re.compile(r"^ +(\[\*\]|\w+) --> (\w+): (\w+)(?: \((.+)\))?$", re.MULTILINE)
RESOLVING = [level for level in Level if level is not Level.IT_MANAGER]
Move = tuple[str, str, str, str | None]  # from, event, to, step


def node(ticket: Ticket) -> str:
    """Where a ticket stands in the pictures: at a level while it is in support, else in a state."""
    return str(ticket.level if ticket.state is State.IN_SUPPORT else ticket.state)


def tickets() -> Iterator[Ticket]:
    """A ticket in every state and at every level, with a verdict and with the details that closing takes."""
    for state in State:
        for level in RESOLVING if state in (State.IN_SUPPORT, *list(State)[5:8]) else [Level.TIER1]:
            details = [e.ResolutionDocumented(level, "cause", "actions", "method")] * (state is State.VERIFIED)
            yield ticket_in(state, level, *details, can=True)


def moves() -> Iterator[Move]:
    """Every way from one place to another one, as the decisions allow it."""
    ways: list[Callable[[Ticket, Given], list[e.Event]]] = [*WAYS.values()]
    ways += [lambda t, g, to=level: decisions.return_to_level(t, g, to, "try this") for level in Level]  # type: ignore[misc]
    yield "[*]", "RequestReceived", "received", "1"
    for ticket, way in product(tickets(), ways):
        try:
            events = way(ticket, given_by(QUALITY, LATER))
        except errors.Refused:
            continue
        then = after(ticket, events)
        if events and node(then) != node(ticket):
            yield node(ticket), type(events[0]).__name__, node(then), step_of(events[0], then.level)


def stands_for(drawn: str, place: str) -> bool:
    """Whether a node of a picture is this place; "level" is any level that resolves."""
    return drawn == place or (drawn == "level" and place in RESOLVING)


def test_the_pictures_show_the_procedure() -> None:
    """Each arrow is a move of the procedure with its steps, and each move is an arrow or is told below the pictures."""
    arrows = {(a, event, b): steps for a, b, event, steps in ARROW.findall(README.read_text())}
    found = set(moves())
    drawn: set[Move] = set()
    for (a, event, b), steps in arrows.items():
        same = {move for move in found if stands_for(a, move[0]) and event == move[1] and stands_for(b, move[2])}
        assert same, (a, event, b)
        assert {step for *_, step in same if step} == set(steps.split(", ") if steps else ()), (a, event, b)
        assert "level" not in (a, b) or {move[0 if a == "level" else 2] for move in same} == set(RESOLVING)
        drawn |= same
    told = found - drawn
    cancelled = {move for move in told if move[1] == "Cancelled"}
    assert {a for a, *_ in cancelled} == {*OPEN_STATES, *RESOLVING} - {State.IN_SUPPORT}
    voided = {move for move in told - cancelled if move[0] in MANAGER_STATES[1:]}
    assert {(event, b) for _, event, b, _ in voided if b != "deciding"} == {
        ("DossierCompiled", "awaiting_approval"),
        *(("ReturnedToLevel", level) for level in RESOLVING[:4]),
    }
    corrected = {("verified", "ClientCorrected", "resolved", None)}
    assert told == cancelled | voided | corrected


# ── The reference names all that there is ───────────────────────────────────────────────────────────────────

FORMS = [("SingleLine", forms.SingleLine), ("Text", forms.Text), ("UserId", forms.UserId), ("Email", forms.Email)]
FORMS += [("Sha256", forms.Sha256), ("Identifier", forms.Identifier), ("Reason", forms.Reason)]
PLAIN = {str: "text", int: "number", bool: "true or false", type(None): "null", UUID: "UUID"}


def in_words(type_: Any) -> str:
    """The type of a field as the reference writes it."""
    for name, form in FORMS:
        if type_ == form:
            return name
    if isinstance(type_, UnionType) or (len(get_args(type_)) == 2 and type(None) in get_args(type_)):
        return " or ".join(in_words(part) for part in get_args(type_))
    if get_origin(type_) is Literal:
        return f"{get_args(type_)[0]} to {get_args(type_)[-1]}"
    if get_origin(type_) is tuple:
        return f"list of {in_words(get_args(type_)[0])}"
    return PLAIN.get(type_) or type_.__name__


def fields(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct as the reference writes them."""
    told = []
    for field in msgspec.structs.fields(struct):
        optional = not field.required and not issubclass(struct, e.Event)  # an event is written with all its fields
        told.append(f"`{field.encode_name}` {in_words(field.type)}{', optional' if optional else ''}")
    return "; ".join(told) or "nothing"


def test_every_event_is_described() -> None:
    """events.md has each event once, with its stored name, its steps and its fields with their types."""
    found = {spans(name)[0]: (step, told) for name, _, step, told, _ in lines("events.md", "Stored name")}
    steps = {f"Ticket.{name}": [step for step in said.split() if step not in ".-"] for name, (_, said) in STEPS.items()}
    assert found == {
        name: (", ".join(dict.fromkeys(steps.get(name, []))) or "–", fields(event)) for name, event in EVENTS.items()
    }


def test_every_value_is_described() -> None:
    """events.md has the values of each kind, and commands.md the length of each form."""
    found = dict(lines("events.md", "Type", "Values"))
    for kind in (Channel, Grade, Level, Relation, Visibility):
        assert spans(found.pop(kind.__name__)) == list(kind)
    assert found == {"Sender": fields(Sender).replace(", optional", "")}
    lengths = {name: re.findall(r"\d{2,}", says)[:1] for name, says in lines("commands.md", "Type", "What it takes")}
    metas = {name: form.__metadata__[0].max_length for name, form in FORMS}
    assert lengths == {name: [str(length or 64)] for name, length in metas.items()}


CONDITIONS = {
    "anywhere": "",
    "holds": " holding it",
    "at_level": " of its level",
    "own": " own",
    "not_with_manager": " before the IT manager",
    "past_intake": " after intake",
    "in_intake": " in intake",
    "in_quality_control": " in quality control",
    "with_manager": " having it",
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    **COMMANDS,
    **{opening.name: opening for opening in (ReceiveRequest, OpenTicket)},
}
STRUCTS |= {"register_client": RegisterClient, "claim_next": ClaimNext}


def sections() -> dict[str, dict[str, str]]:
    """The commands of commands.md: for each its lines of the form "- Body: …"."""
    parts = re.split(r"^###? (.*)$", (REFERENCE / "commands.md").read_text(), flags=re.MULTILINE)[1:]
    told = zip(parts[::2], parts[1::2], strict=True)
    return {name: dict(re.findall(r"^- (.*?): (.*)$", text, re.MULTILINE)) for name, text in told if "- Body: " in text}


def code_of_command(name: str) -> str:
    """The source of a command's struct and of its decision."""
    decision = getattr(STRUCTS[name], "decision", None)
    return getsource(STRUCTS[name]) + (getsource(decision) if decision else "")


def following(name: str) -> list[str]:
    """The commands that follow at once on a ticket that one command opens."""
    then = getsource(STRUCTS[name].then) if issubclass(STRUCTS[name], Opening) else ""
    names = [*re.findall(r"([A-Z]\w+)\(", then), *["DocumentIssue"] * ("self.issue" in then)]
    return [struct.name for struct in COMMANDS.values() if struct.__name__ in names]


def recorded_by(name: str) -> set[str]:
    """The stored names of the events that a command can record."""
    if name == "register_client":
        return set(CLIENT_EVENTS)
    source = "".join(map(code_of_command, [name, *following(name)]))
    return {f"Ticket.{event}" for event in re.findall(r"\be\.([A-Z]\w+)", source)}


def refused_by(name: str) -> set[str]:
    """The codes with which a command is refused beside the state's."""
    source = code_of_command(name)
    named = [getattr(errors, error) for error in re.findall(r"\b(?:errors\.|raise )([A-Z]\w+)", source)]
    directory = any("loaded.client(" in code_of_command(one) for one in [name, *following(name)])
    named += [errors.UnknownClient] * directory + [error for _, error in RULES.get(name, ())]
    named += [errors.UnknownAssignee, errors.AssigneeLacksRole] * ("require_assignee(" in source)
    if name == "link":
        named += [errors.UnknownOther, *(error for rules in LINK_RULES.values() for _, error in rules)]
    return {error.code for error in named} | ({"unknown_queue"} if name == "claim_next" else set())


def timing(name: str) -> Timing:
    """The row of a command in the procedure; an empty one for what is not a step on a ticket."""
    return PROCEDURE.get(name, Timing(()))


def codes_of(refusals: Refusals) -> dict[str, str]:
    """The code of each state's refusal."""
    return {state: error.code for state, error in refusals.items()}


def test_every_command_is_described() -> None:
    """commands.md has each command once: its body, who may give it, when, what it records, and its refusals."""
    found = sections()
    assert found.keys() == MAY.keys() == STRUCTS.keys()
    for name, told in found.items():
        assert told["Body"] == ("nothing" if name == "claim_next" else fields(STRUCTS[name])), name
        assert told["Who may"] == "; ".join(f"`{role}`{CONDITIONS[rule.__name__]}" for role, rule in MAY[name]), name
        assert spans(told.get("Possible in", "")) == list(timing(name).when), name
        for word, refusals in (("Too early", timing(name).too_early), ("Too late", timing(name).too_late)):
            said = [spans(part) for part in told.get(word, "").split("; ") if part]
            assert {state: code for code, *states in said for state in states} == codes_of(refusals), (name, word)
        assert {said for said in spans(told["Records"]) if "." in said} == recorded_by(name), name
        assert set(spans(told.get("Also refused", ""))) == refused_by(name), name


def test_every_command_has_its_address() -> None:
    """commands.md says where commands are sent, and which of them need no version."""
    text = (REFERENCE / "commands.md").read_text()
    assert spans(lines("commands.md", "Command", "Address")[-1][1]) == ["POST /v1/tickets/{ticket_id}:{command}"]
    assert all(f"`{name}`" in text.split("## Words")[0] for name in COMMANDS_WITHOUT_VERSION)
    for inner in (DocumentIssue, RequestSender):
        assert all(f"`{field}`" in text for field in inner.__struct_fields__)


def test_what_every_command_is_answered_before_and_after_is_described() -> None:
    """commands.md has the codes of the states whose answer is the same for every command."""
    found = {spans(state)[0]: spans(code)[0] for state, code in lines("commands.md", "State", "Code")}
    assert found == codes_of({**COMES_FIRST, **ENDED})


def test_every_address_is_described() -> None:
    """http.md has each address with its methods, and says who may read there."""
    app = create_app(Settings(database_url="postgresql://nobody@127.0.0.1/nothing"))
    routes = {
        (re.sub(r":uuid(?=\})", "", route.path), method.method)
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }
    found = {(spans(path)[0], method): who for path, method, who, _ in lines("http.md", "Address", "Method")}
    assert found.keys() == routes
    readers = {
        "/v1/tickets": "tickets",
        "/v1/tickets/{ticket_id}": "ticket",
        "/v1/tickets/{ticket_id}/history": "ticket",
        "/v1/queues": "queues",
        "/v1/queues/{queue}": "queues",
        "/v1/clients/{user_id}": "client",
        "/v1/events": "events",
        "/v1/reports": "reports",
        "/v1/reports/{metric}": "reports",
        "/v1/closure_mails": "closure_mails",
        "/v1/webhooks": "webhooks",
        "/v1/webhooks/{webhook_id}": "webhooks",
        "/v1/webhooks/{webhook_id}/deliveries": "webhooks",
    }
    for path, what in readers.items():
        assert set(spans(found[path, "GET"])) == set(MAY_READ[what]), path
    open_to_all = {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", REDOC}
    assert set(readers) | open_to_all == {path for path, method in routes if method == "GET"}


def test_every_parameter_is_described() -> None:
    """http.md has each parameter of each address."""
    found: dict[str, set[str]] = {}
    for paths, names, _ in lines("http.md", "Address", "Parameter"):
        for path in spans(paths):
            found.setdefault(path, set()).update(spans(names))
    structs: dict[str, type[msgspec.Struct]] = {
        "/v1/tickets": ListParameters,
        "/v1/tickets/{ticket_id}": TicketParameters,
        "/v1/tickets/{ticket_id}/history": HistoryParameters,
        "/v1/queues": OverviewParameters,
        "/v1/queues/{queue}": QueueParameters,
        "/v1/clients/{user_id}": PageParameters,
        "/v1/events": FeedParameters,
        "/v1/reports/{metric}": ReportParameters,
        "/v1/closure_mails": MailParameters,
        "/v1/webhooks": WebhookParameters,
        "/v1/webhooks/{webhook_id}/deliveries": DeliveryParameters,
    }
    assert found == {
        path: {field.encode_name for field in msgspec.structs.fields(struct)} for path, struct in structs.items()
    }


def leaves(kind: type[errors.DeskError]) -> Iterator[type[errors.DeskError]]:
    """The errors that are raised: those that have no kinds below them."""
    below = kind.__subclasses__()
    yield from (leaf for one in below for leaf in leaves(one)) if below else iter((kind,))


def test_every_error_code_is_described() -> None:
    """http.md has each code that can be answered, with its status."""
    text = (REFERENCE / "http.md").read_text()
    found = {("409", spans(code)[0]) for code, _ in lines("http.md", "Code", "Meaning")}
    found |= {(status, code) for status, said, *_ in lines("http.md", "Status", "Code") for code in spans(said)}
    answered = {
        (str(next(status for base, status in STATUS.items() if issubclass(kind, base))), kind.code)
        for kind in leaves(errors.DeskError)
    }
    for path in (ROOT / "api").rglob("*.py"):
        source = path.read_text()
        answered |= set(re.findall(r'(?:\bProblem\(|write\(req, resp,)\s*(\d{3}), "(\w+)"', source))
        answered |= {("401", code) for code in re.findall(r'\bchallenge\(\s*"(\w+)"', source)}
    answered |= {(str(status), code) for status, code in CODES.items()} | {("422", "invalid_body")}
    answered |= {("any other", "http_error"), ("any other", "http_")}
    assert found == answered
    assert "urn:deskledger:problem:" in text


def test_every_setting_is_described() -> None:
    """settings.md has each variable with its default and with what its reader says that it accepts."""
    told = lines("settings.md", "Variable")
    found = {spans(name)[0]: (default.strip("`"), accepts) for name, default, accepts, _ in told}
    assert found == {
        name: (written(getattr(Settings(), field)), complaint(variable.read))
        for name, (field, variable) in VARIABLES.items()
    }
    shown = {spans(line[0])[0] for table in tables(README.read_text()) for line in table if line[0].startswith("`D")}
    assert shown < VARIABLES.keys()


def written(value: Any) -> str:
    """A default as somebody would set it."""
    return {None: "unset", True: "on", False: "off"}[value] if isinstance(value, bool | None) else str(value)


def complaint(reader: Callable[[str], Any]) -> str:
    """What a reader says of a value that it cannot use."""
    for nonsense in (" ", "?"):
        try:
            reader(nonsense)
        except ValueError as error:
            return str(error)
    raise AssertionError("it takes everything")


def leaf_commands(top: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that can be run, with their names."""
    below = [action.choices for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, top
    for choices in below:
        for word, command in choices.items():
            yield from leaf_commands(command, f"{name} {word}".strip())


def test_every_command_of_the_command_line_is_described() -> None:
    """command-line.md has each command, and each option with the commands that take it."""
    known = dict(leaf_commands(parser()))
    told = lines("command-line.md", "Command")
    assert [spans(name)[0].removeprefix("deskledger ") for name, _ in told] == list(known)
    takers = lines("command-line.md", "Option")
    found = {option: set(spans(of)) for options, of, _ in takers for option in spans(options)}
    options: dict[str, set[str]] = {}
    for name, command in known.items():
        for action in command._actions:
            if action.dest != "help":
                options.setdefault((action.option_strings or [action.dest])[-1], set()).add(name)
    assert found == options
    assert spans(takers[-1][2]) == [projection.name for projection in PROJECTIONS]


def test_every_table_is_described(connection: psycopg.Connection[Any]) -> None:
    """tables.md has each table with its columns, and each view of the schema reporting."""
    columns: dict[str, list[str]] = {}
    query = """select table_schema, table_name, column_name from information_schema.columns
        where table_schema in ('public', 'reporting') order by table_name, ordinal_position"""
    for schema, table, column in connection.execute(query).fetchall():
        columns.setdefault(table if schema == "public" else f"reporting.{table}", []).append(column)
    found = {spans(name)[0]: spans(told) for name, told, _ in lines("tables.md", "Table", "Columns")}
    assert found == {name: told for name, told in columns.items() if "." not in name}
    views = [spans(name)[0] for name, _ in lines("tables.md", "View")]
    assert sorted(views) == sorted(name for name in columns if "." in name)


# ── The pages as such ───────────────────────────────────────────────────────────────────────────────────────


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A link to another page, or to a heading, finds it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), target
        assert not anchor or anchor in slugs(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_is_tidy(page: Path) -> None:
    """The lines of a table have as many cells as its head, and a blank on both sides of each bar."""
    for table in tables(page.read_text()):
        assert {len(line) for line in table} == {len(table[0])}, table[0]


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page of the documentation, and docs/decisions/README.md to each decision."""
    for index in (ROOT / "docs" / "README.md", DECISIONS / "README.md"):
        targets = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
        pages = {page for page in index.parent.rglob("*.md") if page.parent == DECISIONS or index.parent != DECISIONS}
        missing = {page for page in pages - targets - {index} if index.parent == DECISIONS or page.parent != DECISIONS}
        assert not missing
    numbers = sorted(page.name[:4] for page in DECISIONS.glob("0*.md"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


def test_every_dependency_has_its_reason_and_its_licence() -> None:
    """The decisions name each dependency of pyproject.toml, with the licence and the status that it declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for some in project["optional-dependencies"].values() for name in some)]
    wanted = [re.split(r"[\[>=<;]", name)[0] for name in named if not name.startswith("deskledger")]
    found = {}
    for page in ("0001-runtime-libraries.md", "0002-development-tools.md"):
        for name, licence, status, _ in tables((DECISIONS / page).read_text())[0][1:]:
            found[spans(name)[0]] = (licence, status)
    assert sorted(found) == sorted(wanted)
    for name, (licence, status) in found.items():
        declared = metadata(name)
        kinds = [said for said in declared.get_all("Classifier", []) if said.startswith("License")]
        said = declared["License-Expression"] or f"{declared['License']} {' '.join(kinds)}"
        assert said == licence or (not declared["License-Expression"] and licence.split("-")[0] in said), name
        stages = [said for said in declared.get_all("Classifier", []) if said.startswith("Development Status")]
        assert status == (stages[0].rpartition("- ")[2] if stages else "not declared"), name


def test_the_architecture_names_what_is_there() -> None:
    """Every file, room and test that ARCHITECTURE.md names exists, and every room of the four packages is named."""
    text = ARCHITECTURE.read_text()
    named = set(re.findall(r"`((?:domain|application|projections|api|tests)/[\w/.]*)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests} == set()
    rooms = {
        f"{init.parent.relative_to(ROOT)}/" for package in PACKAGES for init in (ROOT / package).glob("*/__init__.py")
    }
    assert rooms - named == set()
