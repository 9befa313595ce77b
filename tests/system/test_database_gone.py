"""The database goes away under load and comes back; nothing that was acknowledged is missing, nobody sees a 500."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest
import urllib3

from application.store.postgres.database import connect, migrate
from application.store.postgres.embedded_postgres import EmbeddedPostgres
from projections.runner import ensure_projections
from tests.support.running_desk import RunningDesk, wait_until


class Load:
    """Clients that open tickets and escalate them, and remember what they were told."""

    def __init__(self, served: RunningDesk, clients: int) -> None:
        self.served = served
        self.acknowledged: list[tuple[str, int]] = []
        self.statuses: Counter[int] = Counter()
        self.missing_retry_after = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        self.served.client()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        ticket, version = "", 0
        issue = {"summary": "s", "description": "d", "category": "c", "impact": "low", "urgency": "low"}
        body = {"client_user_id": "client-1", "channel": "api", "text": "under load", "issue": issue}
        while not self._stop.is_set():
            path, wish = ("/v1/tickets", body) if not ticket else (f"/v1/tickets/{ticket}:escalate", {"reason": "up"})
            try:
                reply = self.served.request("POST", path, wish, headers={"If-Match": f'"{version}"'} if ticket else {})
            except urllib3.exceptions.HTTPError:
                continue
            self.statuses[reply.status] += 1
            self.missing_retry_after += reply.status == 503 and "Retry-After" not in reply.headers
            acknowledged = reply.status in (200, 201)
            if acknowledged:
                self.acknowledged.append((reply.json["ticket_id"], reply.json["version"]))
            ticket = reply.json["ticket_id"] if reply.status == 201 else ""
            version = reply.json["version"] if reply.status == 201 else 0


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_no_acknowledged_command_is_missing(own_postgres: EmbeddedPostgres, tmp_path: Path, how: str) -> None:
    """Stopped or killed under load and started again: what was acknowledged is there, an outage is a 503."""
    with connect(own_postgres.url, "test") as connection:
        migrate(connection)
        ensure_projections(connection)
    with RunningDesk(own_postgres.url, tmp_path) as served:
        load = outage(served, own_postgres, how)
        served.caught_up()
    assert set(load.statuses) <= {200, 201, 503}, load.statuses
    assert load.missing_retry_after == 0
    with connect(own_postgres.url, "test") as connection:
        recorded = set(connection.execute("select stream_id, version from events").fetchall())
    assert {(UUID(ticket), version) for ticket, version in load.acknowledged} <= recorded


def outage(served: RunningDesk, own_postgres: EmbeddedPostgres, how: str) -> Load:
    """Load before, during and after an outage."""
    with Load(served, clients=8) as load:
        wait_until(lambda: load.statuses[201] > 200, "the load runs")
        if how == "stopped":
            own_postgres.stop()
        else:
            os.kill(own_postgres.running_pid(), signal.SIGKILL)
            own_postgres.process.wait()
        wait_until(lambda: load.statuses[503] > 20, "the outage shows")
        before = load.statuses[201]
        own_postgres.start()
        wait_until(lambda: load.statuses[201] > before + 200, "it works again without a restart")
    return load
