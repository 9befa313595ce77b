"""The command line: `deskledger serve`, and everything else that is done to a desk from a shell."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from api.cli import admin_commands as admin
from api.cli import demo
from api.cli.command_errors import CommandError
from api.cli.doctor import doctor
from api.cli.rebuild_command import rebuild_tables
from api.cli.serve import Supervisor
from application.identity.api_keys import KeyRefused
from application.observability.logs import configure
from application.settings import Settings, SettingsError, read_settings
from application.store.postgres.database import SchemaLocked
from application.store.postgres.embedded_postgres import PostgresError
from domain.roles import RESOLVING_LEVELS
from domain.text import with_visible_controls
from domain.values import Level, Role
from projections.rebuild.rebuild_projections import REBUILD_PROCESSES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
CLI_EPILOG = """
first steps:
  deskledger serve                                   start everything; prints the address and an admin key
  deskledger keys create --name 'front desk' --role intake
  deskledger demo                                    see the whole procedure run

Settings come from the environment; docs/reference/settings.md has all of them.
"""
DISK = (
    "The new tables are built beside the old ones, and the old ones are kept until the next rebuild: the disk holds"
    " both, and while the next rebuild runs, all three. --drop-retired gives the space back."
)
REACH_IT = "Start it, or mend DATABASE_URL."
ADVICE = {
    "08": REACH_IT,  # connection exception
    "57": REACH_IT,  # starting up, or shutting down
    "57014": "It took too long: run it again when the database has less to do.",  # query canceled
    "28": "It does not let this user in: mend DATABASE_URL.",
    "3D": "There is no such database: create it, or mend DATABASE_URL.",
    "40": "Others were at it, too, and nothing is done: run it again.",  # deadlock
    "42": "This user may not do that, or the schema is of another version: run deskledger migrate as its owner.",
    "53": "It has no room, or no connection left: give it more, and run it again.",  # disk full, too many connections
    "55": "Others hold what is needed, and nothing is done: run it again when they have ended.",  # lock not available
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status; an error that the user can mend is one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        settings = read_settings(**{name: getattr(options, name, None) for name in ("host", "port", "data_dir")})
        configure(settings.log_level)
        return int(options.run(settings, options) or 0)
    except (SettingsError, PostgresError, KeyRefused, CommandError, SchemaLocked) as error:
        return _complain(str(error))
    except psycopg.Error as error:
        return _complain(f"the database does not do it: {str(error).strip()}\n{advice(error)}")
    except KeyboardInterrupt:
        return 130


def advice(error: psycopg.Error) -> str:
    """What to do about what the database says, by its SQLSTATE or the class of it; without one it was not reached."""
    code, otherwise = error.sqlstate or "08", "Nothing is half done. deskledger doctor looks at the whole desk."
    return ADVICE.get(code) or ADVICE.get(code[:2], otherwise)


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="deskledger",
        description="An event-sourced service desk: the escalation procedure, held by a machine.",
        epilog=CLI_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data-dir", type=Path, help="where everything of this desk lies (default: .deskledger)")
    address = argparse.ArgumentParser(add_help=False)
    address.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    port = _number(int, 1, 65535, "a whole number from 1 to 65535")
    address.add_argument("--port", type=port, help="port to listen on (default: 8000)")

    _add(commands, "serve", _serve, "everything on one machine: database, API, worker", data, address)
    _add_demo(commands)
    _add(commands, "api", _api, "the API alone, against DATABASE_URL", address)
    _add(commands, "work", _work, "a worker alone, against DATABASE_URL: seals, projects, sends mail")
    _add(commands, "migrate", admin.migrate_all, "bring the database's schema up to date", data)
    _add_keys(commands, data)
    _add_rebuild(commands, data)
    parked = _add(commands, "replay", admin.replay_parked, "apply what is parked again, from its first event", data)
    parked.add_argument("projection", nargs="?", help="ticket_summaries, queue_stays or closings (default: all)")
    says = "after a restore: give the log another identity, so that its followers begin again"
    _add(commands, "restored", admin.restored, says, data)
    _add(commands, "doctor", doctor, "say what is wrong with this installation, and what to do about it", data)
    return top


def _add(
    commands: Commands, name: str, run: object, says: str, *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".", parents=parents)
    command.set_defaults(run=run)
    return command


def _add_demo(commands: Commands) -> None:
    shown = _add(commands, "demo", _demo, "see the whole procedure run, on a desk of its own")
    shown.epilog, shown.formatter_class = demo.__doc__, argparse.RawDescriptionHelpFormatter
    seconds = _number(float, 0, 60, "seconds from 0 to 60, for example 0.5")
    pace, says = 0.15 if sys.stdout.isatty() else 0.0, "seconds to wait after each step (default: 0.15, 0 when piped)"
    shown.add_argument("--pace", metavar="SECONDS", type=seconds, default=pace, help=says)


def _add_keys(commands: Commands, data: argparse.ArgumentParser) -> None:
    keys = commands.add_parser("keys", help="API keys: create, list, revoke")
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    create = _add(verbs, "create", admin.keys_create, "make a key; it is printed once, alone on the last line", data)
    create.add_argument("--name", required=True, help="whom or what the key is for")
    _add_choice(create, "--role", [role for role in Role if role is not Role.SYSTEM], required=True)
    _add_choice(create, "--level", RESOLVING_LEVELS, default=[])
    create.add_argument("--client", metavar="USER_ID", help="the client that a key with the role client stands for")
    days = _number(int, 1, 36500, "a whole number of days, at least 1")
    create.add_argument("--expires", metavar="DAYS", type=days, help="days until it ends (default: never)")
    _add(verbs, "list", admin.keys_list, "every key: id, name, roles, until when", data)
    _add(verbs, "revoke", admin.keys_revoke, "end a key", data).add_argument("id", help="as `keys list` shows it")


def _add_rebuild(commands: Commands, data: argparse.ArgumentParser) -> None:
    says = "build projections anew beside the old ones, compare, swap"
    again = _add(commands, "rebuild", rebuild_tables, says, data)
    again.epilog = DISK
    again.add_argument("projection", nargs="+", help="ticket_summaries, queue_stays or closings; two at once is faster")
    processes, many = _number(int, 1, 64, "a whole number from 1 to 64"), "how many build (default: one for each core)"
    again.add_argument("--processes", metavar="N", type=processes, default=REBUILD_PROCESSES, help=many)
    instead = again.add_mutually_exclusive_group()
    back = "bring back at once what the last rebuild replaced; it catches up from where it stood"
    instead.add_argument("--roll-back", action="store_true", help=back)
    instead.add_argument("--drop-retired", action="store_true", help="drop what the last rebuild replaced; no way back")


def _add_choice(command: argparse.ArgumentParser, name: str, choices: Sequence[Role | Level], **more: Any) -> None:
    def read(value: str) -> Role | Level:
        for choice in choices:
            if choice == value:
                return choice
        raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(choices)}")

    says = f"{', '.join(choices)}; may be repeated"
    command.add_argument(name, action="append", type=read, metavar=name.strip("-").upper(), help=says, **more)


def _number(kind: type[int] | type[float], least: int, most: int, says: str) -> Callable[[str], float]:
    def read(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"takes {says}")
        return number

    return read


def _complain(message: str) -> int:
    print(f"deskledger: {with_visible_controls(message)}", file=sys.stderr)
    return 1


def _serve(settings: Settings, options: argparse.Namespace) -> None:
    Supervisor(settings).run()


def _demo(settings: Settings, options: argparse.Namespace) -> int:
    from api.cli.demo.demo_command import play_demo  # like the two below, it brings a server with it

    return play_demo(options.pace)


def _api(settings: Settings, options: argparse.Namespace) -> None:
    from api.server.gunicorn_server import serve_api

    serve_api(_with_database(settings))


def _work(settings: Settings, options: argparse.Namespace) -> None:
    from api.worker.worker_loop import work

    work(_with_database(settings))


def _with_database(settings: Settings) -> Settings:
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is not set: a part alone needs it; deskledger serve brings its own database")
    return settings
