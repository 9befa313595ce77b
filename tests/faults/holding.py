"""What others hold open while the desk works: transactions with drawn numbers, prepared ones, and foreign ones.

One thread begins such things and ends them again, at random. Beside whatever is held at the time it records an event
and counts the passes of a sealer, a third one, that the event needs.
"""

import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Literal

from application.clock import utc_now
from application.commands.deciding import CommandRequest, Trace, decide, new_stream_id
from application.commands.procedure_commands import ReceiveRequest, RequestSender
from application.store.event_store import StoredRow, to_row
from application.store.postgres.database import connect
from application.store.sealing import seal
from domain.values import Channel
from tests.faults.checker import Held, Probe
from tests.faults.clients import WHO
from tests.faults.journal import Journal
from tests.faults.store import log_end
from tests.support.write_side import append

REQUEST = ReceiveRequest(Channel.API, "held back", RequestSender())
LONGEST = 4.0  # seconds that something is held
MOST_AT_ONCE = 6
MOST_PASSES = 5  # after which a probe gives up
KINDS = (
    "an open transaction",
    "a prepared transaction",
    "a transaction in another database",
    "an open transaction that draws its numbers at its end",
)
SEALED = "select exists (select from log join events using (ord) where stream_id = %s)"


class Holding:
    """One thing that is held until it is due. `connection` is None for a prepared transaction, which needs none."""

    def __init__(self, kind: str, mark: str, rows: list[StoredRow], connection: Any, due: float) -> None:
        self.kind, self.mark, self.rows, self.connection, self.due = kind, mark, rows, connection, due
        self.tried = self.committing = False


class Holder:
    """Holds and releases; `with` starts and ends it. `held`, `probes` and `sealed` are what it has seen."""

    def __init__(self, url: str, directory: Path, name: str, seed: str) -> None:
        self._url, self._name, self._chance = url, name, random.Random(f"{seed} {name}")
        self._foreign = url.replace("/deskledger?", "/postgres?")
        self._journal = Journal(directory / f"{name}.journal")
        self._holdings: list[Holding] = []
        self._count = self.sealed = 0
        self.held: list[Held] = []
        self.probes: list[Probe] = []
        self.vanished: list[str] = []
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, name=name)

    def start(self) -> "Holder":
        """Begins to hold."""
        self._thread.start()
        return self

    def stop(self, release: bool = True) -> None:
        """Ends it: releases everything that is held, or leaves it as it is, because its store is gone."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + 30
        while release and self._holdings and time.monotonic() < deadline:
            self._try(self._release_all)
            time.sleep(0.05)
        self._drop()
        if release:
            roll_back_prepared(self._url)  # those of which nobody was told that they are prepared

    def _run(self) -> None:
        while not self._stop.is_set():
            self._try(self._turn)
            self._stop.wait(0.1)

    def _try(self, work: Any) -> None:
        try:
            work()
        except psycopg.OperationalError:
            self._drop()

    def _turn(self) -> None:
        for holding in [one for one in self._holdings if one.due < time.monotonic()]:
            self._release(holding)
        if len(self._holdings) < MOST_AT_ONCE and self._chance.random() < 0.5:
            self._begin(self._chance.choice(KINDS))
        if self._chance.random() < 0.5:
            self._probe()

    def _begin(self, kind: str) -> None:
        due = time.monotonic() + self._chance.random() * LONGEST
        if kind == KINDS[2]:
            connection = connect(self._foreign, "foreign")
            connection.execute("begin")
            connection.execute("select pg_current_xact_id()")
            self._holdings.append(Holding(kind, "", [], connection, due))
            return
        mark, rows = self._request()
        self._journal.sending(mark, len(rows))
        connection = connect(self._url, "holder")
        connection.execute("begin")
        if kind == KINDS[3]:
            connection.execute("select pg_current_xact_id()")
        else:
            append(connection, rows)
        holding = Holding(kind, mark, rows, connection, due)
        self._holdings.append(holding)
        if kind == KINDS[1]:
            connection.execute(SQL("prepare transaction {}").format(Literal(mark)))
            connection.close()
            holding.connection = None

    def _release(self, holding: Holding) -> None:
        """Commits, or rolls back; a commit that failed is tried again, and may then find that it was done."""
        commit = holding.committing or self._chance.random() < 0.7
        if holding.mark and commit and not holding.committing:
            with connect(self._url, "holder") as connection:
                self.held.append(Held(holding.mark, log_end(connection)))
        word = SQL("commit" if commit else "rollback")
        if holding.kind == KINDS[1]:
            with connect(self._url, "holder") as connection:
                before = holding.tried
                holding.tried, holding.committing = True, commit
                try:
                    connection.execute(SQL("{} prepared {}").format(word, Literal(holding.mark)))
                except psycopg.errors.UndefinedObject:
                    self._gone(holding, before)
                    return
        else:
            if holding.kind == KINDS[3]:
                holding.connection.execute("set deskledger.importing to on")  # what it held back is old by now
                append(holding.connection, holding.rows)
            holding.committing = commit
            holding.connection.execute(word)
            holding.connection.close()
        self._holdings.remove(holding)
        if holding.mark and commit:
            row = holding.rows[0]
            self._journal.recorded(holding.mark, row.originator_id, [row.originator_version for row in holding.rows])
        elif holding.mark:
            self._journal.refused(holding.mark, "rolled back")

    def _gone(self, holding: Holding, tried: bool) -> None:
        """A prepared transaction is not there any more: it was ended by the try before, or it was lost."""
        self._holdings.remove(holding)
        self._journal.unknown(holding.mark, "not there")
        if not tried:
            self.vanished.append(holding.mark)

    def _release_all(self) -> None:
        for holding in list(self._holdings):
            self._release(holding)

    def _drop(self) -> None:
        """Connections are broken: what they held is rolled back, or nobody knows; what is prepared stays."""
        for holding in list(self._holdings):
            if holding.connection is not None:
                with suppress(psycopg.Error):
                    holding.connection.close()
                self._holdings.remove(holding)

    def _probe(self) -> None:
        beside = ", ".join(sorted({holding.kind for holding in self._holdings})) or "nothing"
        mark, rows = self._request()
        with connect(self._url, "third sealer") as connection:
            self._journal.sending(mark, len(rows))
            append(connection, rows)
            stream = rows[0].originator_id
            self._journal.recorded(mark, stream, [1])
            passes = 0
            while passes <= MOST_PASSES and not connection.execute(SEALED, (stream,)).fetchone()[0]:  # type: ignore[index]
                self.sealed += seal(connection)
                passes += 1
        self.probes.append(Probe(beside, passes))

    def _request(self) -> tuple[str, list[StoredRow]]:
        """A new request: its mark, and its rows."""
        self._count += 1
        mark, now = f"{self._name}-{self._count}", utc_now()
        wanted = CommandRequest(new_stream_id(now), REQUEST, WHO, now, None, Trace(correlation_id=mark))
        return mark, [to_row(event) for event in decide(wanted, {}).events]


def roll_back_prepared(url: str) -> int:
    """Ends what was left prepared, after a change of store that its holder did not survive. Returns how many."""
    with connect(url, "faults") as connection:
        left = [row[0] for row in connection.execute("select gid from pg_prepared_xacts").fetchall()]
        for gid in left:
            connection.execute(SQL("rollback prepared {}").format(Literal(gid)))
    return len(left)


def facts(holder: Holder) -> dict[str, int]:
    """How much a holder has seen."""
    return {"held": len(holder.held), "probes": len(holder.probes), "sealed by the third": holder.sealed}
