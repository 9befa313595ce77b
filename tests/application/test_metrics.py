"""/metrics: the sum over every process of the machine, dead ones included, and what the database says; bounded."""

import asyncio
import errno
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from structlog.testing import capture_logs

from api.http.resources.service.metrics_resource import readiness_sums
from api.telemetry.process_watch import ProcessStats, start_process_stats
from application.helpdesk import HelpDesk
from application.observability import metric_store, metrics
from application.observability.metric_store import CAPACITY, FIRST, Cells, gathered
from application.observability.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS_BY_NAME, Metric
from application.settings import Settings
from application.store.postgres.database import connect
from application.store.sealing import seal_all
from projections.runner import NAMES, project_all
from projections.status.readiness import Health, health
from tests.support.read_models import fetcher
from tests.support.reference_pages import ROOT, lines, spans
from tests.support.running_desk import RunningDesk, wait_until
from tests.support.write_side import opened, poison

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
HOOK = """
    insert into webhooks (id, url, secret, position, enabled, created_at, created_by)
    values (gen_random_uuid(), 'http://127.0.0.1:9/in', 'plain:whsec_AAAA', 0, %s, now(), 'a test')"""
WAITING = """
    insert into webhook_deliveries (webhook_id, position, stream_id, type, state, due_at, queued_at)
    select id, 1, gen_random_uuid(), 'Ticket.NoteAdded', state, now(),
        now() - case when enabled then interval '2 minutes' else interval '1 day' end
    from webhooks, unnest(array['due', 'waiting', 'failed', 'delivered']) state"""
Figures = dict[str, dict[tuple[tuple[str, str], ...], float]]


def figures(served: RunningDesk) -> Figures:
    """What /metrics says now: by name of a sample, by its labels."""
    found: Figures = {}
    for family in read_prometheus(served.get("/metrics").data.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(served: RunningDesk, name: str, **labels: str) -> float:
    """One sample; 0 while it is not there."""
    return figures(served).get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def becomes(served: RunningDesk, expected: float, name: str, **labels: str) -> None:
    """Waits until a sample has a value: an answer is up to a second old."""
    wait_until(lambda: value(served, name, **labels) == expected, f"{name}{labels} is {expected}")


def children(served: RunningDesk) -> list[int]:
    """The processes that gunicorn has for requests."""
    pid = served.processes["api"].pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ── Over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_and_commands_are_counted_over_all_processes(served: RunningDesk) -> None:
    """Requests by route template and class of status, commands by result; whichever process is asked, the sum."""
    ticket = served.ticket()
    path = f"/v1/tickets/{ticket}:add_note"
    for number in range(20):  # each on a connection of its own, so that both processes get some
        headers = {"Connection": "close", "Idempotency-Key": f"n-{number // 2}"}
        assert served.request("POST", path, {"text": str(number // 2)}, headers=headers).status == 200
    served.request("POST", path, {"text": " "})
    for number in range(5):
        served.request("GET", f"/v1/tickets/{ticket[:-1]}{number}")
        served.request("GET", f"/unheard/of/{number}")
        served.request("BREW", "/v1/queues")
    becomes(served, 10, "deskledger_commands_total", command="add_note", result="done")
    becomes(served, 10, "deskledger_commands_total", command="add_note", result="replayed")
    becomes(served, 1, "deskledger_commands_total", command="add_note", result="invalid_body")
    becomes(served, 1, "deskledger_commands_total", command="open_ticket", result="done")
    count, route = "deskledger_http_request_duration_seconds_count", "/v1/tickets/{ticket_id}:{command}"
    becomes(served, 20, count, method="POST", route=route, status="2xx")
    becomes(served, 1, count, method="POST", route=route, status="4xx")
    becomes(served, 5, count, method="GET", route="-", status="4xx")
    found = figures(served)
    assert {labels[1][1] for labels in found[count]} <= {"-", route, *templates()}
    assert {labels[0][1] for labels in found[count]} <= {"GET", "POST", "PUT", "other"}
    assert found["deskledger_batch_size_sum"][(("trip", "append"),)] >= 11
    assert found["deskledger_processes"] == {(("part", "api"),): 2.0, (("part", "work"),): 1.0}


def templates() -> set[str]:
    """The routes that this module asks."""
    return {"/v1/tickets", "/v1/tickets/{ticket_id}", "/v1/queues", "/v1/clients/{user_id}", "/readyz", "/metrics"}


def test_a_killed_process_does_not_take_its_counts_along(served: RunningDesk) -> None:
    """After kill -9 of every process of the API: the counts stand and go on, in the files of the dead."""
    for _ in range(10):
        served.request("GET", "/v1/queues", headers={"Connection": "close"})
    sample = ("deskledger_http_request_duration_seconds_count", "GET", "/v1/queues", "2xx")
    labels = dict(zip(("method", "route", "status"), sample[1:], strict=True))
    becomes(served, 10, sample[0], **labels)
    before = children(served)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(new := children(served)) == 2 and not set(new) & set(before), "gunicorn has new ones")
    served.hang_up()
    wait_until(served._answers, "the API answers")
    becomes(served, 10, sample[0], **labels)
    served.request("GET", "/v1/queues")
    becomes(served, 11, sample[0], **labels)
    becomes(served, 2, "deskledger_processes", part="api")
    files = list((served.directory / "metrics").glob("*.cells"))
    assert 3 <= len(files) < 5  # five have counted; whoever began while somebody read may have taken a new one


def test_the_workers_figures_are_in(served: RunningDesk) -> None:
    """What the worker counts is in the API's answer: events, the delay of sealing, mails, errors."""
    served.mailbox.verdicts.append("451 later")
    served.close(served.ticket())
    becomes(served, 1, "deskledger_closing_mail_attempts_total", result="postponed")
    served.caught_up()
    found = figures(served)
    assert found["deskledger_sealed_events_total"][()] == 10
    assert found["deskledger_sealing_delay_seconds_count"][()] >= 1
    assert 0 < found["deskledger_sealing_delay_seconds_sum"][()] < 60
    becomes(served, 1, "deskledger_closing_mails", state="due")
    with connect(served.database, "test") as connection:
        connection.execute("update closure_mails set due_at = now()")
    becomes(served, 1, "deskledger_closing_mail_attempts_total", result="sent")
    becomes(served, 0, "deskledger_closing_mails", state="due")
    with connect(served.database, "test") as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity where application_name like '%worker'"
        )
    wait_until(lambda: value(served, "deskledger_worker_failures_total", work="follow_log") >= 1, "it is counted")


def test_what_the_database_says(database: str, tmp_path: Path) -> None:
    """Without a worker the age of what waits grows; a parked stream is counted; without a database it is said."""
    with RunningDesk(database, tmp_path, workers=1, parts=("api",)) as served:
        served.ticket()
        wait_until(lambda: value(served, "deskledger_oldest_unsealed_event_seconds") > 0.2, "an event waits")
        served.start("work")
        becomes(served, 0, "deskledger_oldest_unsealed_event_seconds")
        becomes(served, 6, "deskledger_log_position")
        with connect(database, "test") as connection:
            ticket = connection.execute("select ticket_id from ticket_summaries").fetchone()[0]
            poison(connection, ticket)
            each = {(("projection", name),): 1.0 for name in NAMES}
            wait_until(lambda: figures(served)["deskledger_parked_streams"] == each, "all of them are counted")
            connection.execute("alter table closure_mails rename to mails_of_before")
            becomes(served, 0, "deskledger_database_up")
            assert "deskledger_log_position" not in figures(served)


def test_both_formats_are_well_formed(module_desk: RunningDesk) -> None:
    """Prometheus' text, and OpenMetrics by Accept: each has every metric, with its words; no key is needed."""
    plain = module_desk.http.request("GET", module_desk.base + "/metrics")
    accept = {"Accept": f"{OPENMETRICS};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
    openly = module_desk.http.request("GET", module_desk.base + "/metrics", headers=accept)
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openly.headers["Content-Type"] == f"{OPENMETRICS}; charset=utf-8"
    families = [list(read_prometheus(plain.data.decode())), list(read_openmetrics(openly.data.decode()))]
    for found in families:
        assert {one.name: one.documentation for one in found} == {
            metric.name.removesuffix("_total"): metric.says for metric in METRICS_BY_NAME.values()
        }
    assert {one.type for one in families[0]} == {COUNTER, GAUGE, HISTOGRAM}


def test_buckets_add_up(module_desk: RunningDesk) -> None:
    """The buckets of a histogram rise to its count, which is that of +Inf."""
    module_desk.ticket()
    wait_until(lambda: len(figures(module_desk).get("deskledger_batch_size_count", {})) >= 3, "there are some")
    found = figures(module_desk)
    for labels, count in found["deskledger_batch_size_count"].items():
        buckets = [at for key, at in found["deskledger_batch_size_bucket"].items() if set(labels) <= set(key)]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count


def test_metrics_can_be_turned_off(database: str, tmp_path: Path) -> None:
    """By a setting: the address is none then, nothing is counted and no file is made. Access lines by another one."""
    served = RunningDesk(database, tmp_path, workers=1, parts=("api",))
    served.environment |= {"DESKLEDGER_METRICS": "off", "DESKLEDGER_ACCESS_LOG": "off"}
    with served:
        assert served.get("/metrics").status == 404
    assert (tmp_path / "api.log").read_text() == ""
    assert not (tmp_path / "metrics").exists()


def test_without_a_directory_each_process_tells_its_own(tmp_path: Path, own: None, undone: None) -> None:
    """Where the data directory cannot be written to, a part says so, and tells what it has counted itself."""
    metrics.start_counting(None)
    (tmp_path / "metrics").write_text("in the way")
    with capture_logs() as logged:
        start_process_stats("api", Settings(data_dir=tmp_path))
    assert [line["event"] for line in logged] == ["what this process counts, it alone will tell"]
    metrics.SEALED_EVENTS.add()
    assert metrics.total() == {metrics.SEALED_EVENTS.key(): [1.0]}


def test_what_is_no_request_is_counted(module_desk: RunningDesk) -> None:
    """What gunicorn cannot read never comes to the application: it is counted by its status."""
    module_desk.request("GET", "/livez", headers={"X-Bad": "\x7f"})
    becomes(module_desk, 1, "deskledger_http_unreadable_requests_total", status="400")


# ── One query for /readyz and /metrics ──────────────────────────────────────────────────────────────────────


def test_lag_is_told_in_positions_and_seconds(desk: HelpDesk, connection: psycopg.Connection[Any]) -> None:
    """A projection that stands still: how many positions are before it, and how old the first of those events is."""
    opened(desk)
    seal_all(connection)
    fetch = fetcher(connection)
    found = asyncio.run(health(fetch))
    assert found.lag == dict.fromkeys(NAMES, found.position)
    assert all(seconds > 0 for seconds in found.lag_seconds.values())
    project_all(connection)
    found = asyncio.run(health(fetch))
    assert (set(found.lag.values()), set(found.lag_seconds.values())) == ({0}, {0.0})


def test_what_waits_for_receivers_is_told(connection: psycopg.Connection[Any]) -> None:
    """Of webhooks: how far behind the log, how old what is tried next is, how much is left; not of one switched off."""
    for enabled in (True, False):
        connection.execute(HOOK, (enabled,))
    connection.execute(WAITING)
    found = asyncio.run(health(fetcher(connection)))
    assert (found.webhook_lag, found.webhooks_pending) == (0, 4)
    assert 100 < found.oldest_webhook_seconds < 190


# ── The cells ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def undone() -> Iterator[None]:
    """What a process that begins to serve changes is as before, after the test."""
    hook = sys.excepthook
    yield
    sys.excepthook = hook


@pytest.fixture
def own() -> Iterator[None]:
    """Counting as before, in memory, after the test."""
    yield
    metrics.start_counting(None)


def test_a_count_is_in_the_file_at_once(tmp_path: Path, own: None) -> None:
    """What is added in one process another one reads, without either of them doing anything."""
    metrics.start_counting(tmp_path)
    metrics.COMMANDS_TOTAL.add(("close", "done"))
    metrics.COMMANDS_TOTAL.add(("close", "done"), by=2)
    metrics.LAG.set(("closings",), 7)
    metrics.SEALING_DELAY.observe((), 0.003)
    metrics.SEALING_DELAY.observe((), 1000.0)
    program = """if True:
        import sys
        from pathlib import Path
        from application.observability.metric_store import gathered
        print([(sorted(sums.items()), lives) for sums, lives in gathered(Path(sys.argv[1]))])"""
    read = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    seen = [0.0, 0.0, 1.0, *[0.0] * 11, 1.0, 1000.003]
    counted = [
        (("deskledger_commands_total", ("close", "done"), 1), [3.0]),
        (("deskledger_projection_lag_positions", ("closings",), 1), [7.0]),
        (("deskledger_sealing_delay_seconds", (), 16), seen),
    ]
    assert read.stdout.strip() == str([(counted, True)])
    assert metrics.total()[metrics.COMMANDS_TOTAL.key("close", "done")] == [3.0]


def test_the_dead_are_added_up_and_their_gauges_forgotten(tmp_path: Path, own: None) -> None:
    """A file whose process is gone counts on; the next process goes on in it; of gauges only the living count."""
    for directory in (tmp_path, tmp_path, None):
        metrics.start_counting(directory)
        metrics.COMMANDS_TOTAL.add(("close", "done"))
        metrics.LAG.set(("closings",), 5)
    metrics.start_counting(tmp_path)
    key = metrics.COMMANDS_TOTAL.key("close", "done")
    for _ in range(2):
        assert {key: values for key, values in metrics.total().items() if values != [0.0]} == {key: [2.0]}
        assert len(list(tmp_path.glob("*.cells"))) == 2  # two have lived at once
    metrics.COMMANDS_TOTAL.add(("close", "done"))
    assert metrics.total()[key] == [3.0]


def test_who_lives_keeps_its_file(tmp_path: Path) -> None:
    """Nobody else counts in it; once it has ended, the next one finds what it has counted."""
    first, second = Cells(tmp_path), Cells(tmp_path)
    for living in (first, second):
        living.values[living.place(("a", (), 1))] = 4.0
    assert list(gathered(tmp_path)) == [({("a", (), 1): [4.0]}, True)] * 2
    del first, living
    third = Cells(tmp_path)
    assert third.sums() == {("a", (), 1): [4.0]}
    assert third.places.keys() == second.places.keys()


@pytest.mark.parametrize(
    "spoilt", [b"", bytes(CAPACITY), b"\xff" * 8, struct.pack("Q", FIRST + 64) + b"\0" * 8 * 64 + b"\1" * 64]
)
def test_a_spoilt_file_is_no_news(tmp_path: Path, spoilt: bytes) -> None:
    """What a crash of the machine, or a kill while it was made, leaves of a file is nothing, and is used again."""
    (tmp_path / "0.cells").write_bytes(spoilt)
    assert list(gathered(tmp_path)) == [({}, False)]
    next_one = Cells(tmp_path)
    next_one.values[next_one.place(("a", (), 2))] = 1.0
    assert list(gathered(tmp_path)) == [({("a", (), 2): [1.0, 0.0]}, True)]


def test_two_threads_that_meet_a_name_at_once_count_in_the_same_cells() -> None:
    """Whoever comes second is given what the first one has made."""
    cells = Cells()
    cells.values[cells.place(("a", (), 1))] = 4.0
    cells.place(("a", (), 1))
    assert cells.sums() == {("a", (), 1): [4.0]}


def test_there_is_an_end_to_names() -> None:
    """When a process has no room for more labels, what they count is lost, and nothing else."""
    full = Cells()
    kept = full.place(("kept", (), 2))
    for number in range(2_000):
        full.place(("more", ("x" * 1000, str(number)), 16))
    full.values[kept] = 3.0
    full.values[full.place(("late", ("x" * 1000,), 16))] = 9.0
    assert full.sums()["kept", (), 2] == [3.0, 0.0]
    assert "late" not in {key[0] for key in full.sums()}
    assert metric_store.SIZE.unpack_from(full._bytes)[0] <= CAPACITY


def test_an_older_program_counts_in_its_own_way(tmp_path: Path, own: None) -> None:
    """Metrics that this program does not know, or knows with other labels or buckets, are left out."""
    old = Cells(tmp_path)
    for key in (
        ("unheard_of", (), 1),
        (metrics.COMMANDS_TOTAL.name, ("close",), 1),
        (metrics.SEALING_DELAY.name, (), 3),
        metrics.SEALED_EVENTS.key(),
    ):
        old.values[old.place(key)] = 1.0
    metrics.start_counting(tmp_path)
    assert metrics.total() == {metrics.SEALED_EVENTS.key(): [1.0]}


def test_a_process_looks_at_itself_once_a_second(own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory, files and CPU time; where there is no /proc, the CPU time alone."""
    metrics.start_counting(None)
    vitals = ProcessStats("test")
    vitals.look()
    vitals.look()
    found = {name: cells for (name, labels, _), cells in metrics.total().items() if labels == ("test",)}
    assert found[metrics.LIVE_PROCESSES.name] == [1.0]
    assert found[metrics.MEMORY.name][0] > 1e6
    assert found[metrics.DESCRIPTORS.name][0] > 2
    monkeypatch.setattr("api.telemetry.process_watch.OWN", Path("/nowhere"))
    ProcessStats("other").look()
    found = metrics.total()
    assert metrics.MEMORY.key("other") not in found
    assert found[metrics.CPU.key("other")][0] > 0


def test_every_metric_has_a_name_that_says_its_unit() -> None:
    """Prometheus' conventions: counters end in _total, times are seconds; the words end like a sentence."""
    for metric in METRICS_BY_NAME.values():
        assert re.fullmatch(r"deskledger(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert metric.says.endswith(".")
        assert not re.search(r"_(ms|millis|minutes)", metric.name)
    assert isinstance(METRICS_BY_NAME["deskledger_build_info"], Metric)


def test_the_reference_has_every_metric() -> None:
    """metrics.md names each metric with its kind, its labels and its words, in the order in which they are declared."""
    told = [
        (spans(name)[0], kind, tuple(spans(labels)), says)
        for name, kind, labels, says in lines("metrics.md", "Metric", "Type")
    ]
    assert told == [(metric.name, metric.kind, metric.labels, metric.says) for metric in METRICS_BY_NAME.values()]


@pytest.mark.parametrize("page", ["alerts.yml", "watch-it.md"])
def test_what_is_watched_is_there(page: str) -> None:
    """Queries and alerts ask for samples that /metrics gives, and for labels that those have; brackets are closed."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    found = re.findall(r"\b(deskledger_\w+)(?:\{(\w+)[!=~]+\"[^\"]*\"\})?", text)
    assert len(found) > 10
    for sample, label in found:
        metric = METRICS_BY_NAME.get(sample) or METRICS_BY_NAME[re.sub(r"_(bucket|sum|count)$", "", sample)]
        assert (sample == metric.name) == (metric.kind != HISTOGRAM), sample
        assert not label or label in metric.labels, (sample, label)
    for by, sample in re.findall(r"(?:sum|max) by \(([\w, ]+)\) \((?:rate\()?(deskledger_\w+)", text):
        metric = METRICS_BY_NAME.get(sample) or METRICS_BY_NAME[re.sub(r"_(bucket|sum|count)$", "", sample)]
        assert set(by.split(", ")) <= {*metric.labels, "le"}, sample
    for line in text.splitlines():
        assert line.count("(") == line.count(")"), line


def test_each_alert_says_what_to_do() -> None:
    """The page has a row for every alert of the file, and for no other."""
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "docs" / "how-to" / "alerts.yml").read_text())
    told = re.findall(r"`(Deskledger\w+)`", (ROOT / "docs" / "how-to" / "watch-it.md").read_text())
    assert sorted(told) == sorted(alerts)
    assert len(alerts) > 10


def test_what_a_database_without_tables_says() -> None:
    """Missing migrations are a database that is not up; so is none that answers."""
    up = metrics.DATABASE_UP.key()
    assert readiness_sums(None)[up] == readiness_sums(Health(["0001"]))[up] == [0.0]
    assert readiness_sums(Health())[up] == [1.0]


def test_a_full_disk_is_met_at_the_beginning(tmp_path: Path, own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a process's file has its room before it is written to; where there is none, no file is left behind."""
    metrics.start_counting(tmp_path)
    (made,) = tmp_path.glob("*.cells")
    assert made.stat().st_blocks * 512 >= CAPACITY
    metrics.start_counting(None)
    made.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        metrics.start_counting(tmp_path)
    assert list(tmp_path.glob("*.cells")) == []


def test_metrics_are_told_while_nothing_can_be_read(tmp_path: Path, own: None) -> None:
    """What others have counted is left out then, and this process tells its own."""
    for _ in range(2):
        metrics.start_counting(tmp_path)
        metrics.COMMANDS_TOTAL.add(("close", "done"))
    (tmp_path / "in_the_way.cells").mkdir()
    assert metrics.total() == {metrics.COMMANDS_TOTAL.key("close", "done"): [1.0]}


def test_who_asks_what_may_be_done_gives_no_command(module_desk: RunningDesk) -> None:
    """A browser's question before a command, and the command with another method, are none; the next one is counted."""
    path = f"/v1/tickets/{uuid4()}:close"
    before = read_metrics(module_desk)
    for method in ("OPTIONS", "GET"):
        module_desk.request(method, path)
    module_desk.ticket("counted")
    wait_until(lambda: read_metrics(module_desk) != before, "what came after it is counted")
    assert [line for line in read_metrics(module_desk) if "close" in line] == [
        line for line in before if "close" in line
    ]


def read_metrics(served: RunningDesk) -> list[str]:
    """What is told of commands."""
    told = served.get("/metrics").data.decode().splitlines()
    return [line for line in told if line.startswith("deskledger_commands_total")]
