"""The embedded PostgreSQL: started, adopted, stopped, crashed, and in places where it is hard to be."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from application.settings import Settings
from application.store.postgres import embedded_postgres as module
from application.store.postgres.embedded_postgres import (
    EmbeddedPostgres,
    PostgresError,
    database_url,
    home_of,
    may_enter,
    own_directory,
    package_dir,
    programs_in,
    servant,
)
from tests.support.running_desk import wait_until

pytestmark = pytest.mark.usefixtures("embedded")


@pytest.fixture
def postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A cluster of the test's own; stopped at the end."""
    cluster = EmbeddedPostgres(directory)
    yield cluster
    cluster.stop()


def ask(url: str, query: str = "select 1") -> object:
    """One value from a database."""
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone()[0]


def test_it_is_started_once_and_adopted_afterwards(postgres: EmbeddedPostgres, directory: Path) -> None:
    """The first start makes the cluster; a second one finds the server that runs; stopping ends it for both."""
    assert postgres.start() is True
    other = EmbeddedPostgres(directory)
    assert other.start() is False
    assert other.running_pid() == postgres.running_pid()
    assert ask(other.url, "select current_setting('fsync')") == "on"
    other.stop()
    assert postgres.running_pid() is None
    postgres.stop()  # there is nothing to stop any more


@pytest.mark.parametrize("adopted", [False, True])
def test_a_server_that_does_not_stop_is_ended(postgres: EmbeddedPostgres, directory: Path, adopted: bool) -> None:
    """A fast shutdown that waits for a process that never answers is not waited for; what is committed stays."""
    postgres.start()
    who = EmbeddedPostgres(directory) if adopted else postgres
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        who.stop(patience=0.5)
    if adopted:
        wait_until(lambda: postgres.running_pid() is None, "it has ended")
    assert who.running_pid() is None
    postgres.start()
    assert ask(postgres.url, "select one from kept") == 1


def test_data_outlives_a_stop_and_a_crash(postgres: EmbeddedPostgres) -> None:
    """What is committed is there after a clean stop, and after the postmaster was killed."""
    postgres.start()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create table kept (word text)")
        connection.execute("insert into kept values ('stopped')")
    postgres.stop()
    assert postgres.start() is True
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("insert into kept values ('killed')")
        os.kill(postgres.running_pid(), signal.SIGKILL)
    wait_until(lambda: not postgres.running_pid(), "the postmaster is dead")
    wait_until(lambda: started(postgres), "it starts again, once its children of before have ended")
    assert ask(postgres.url, "select string_agg(word, ' ' order by word) from kept") == "killed stopped"


def test_a_log_directory_that_was_tidied_away_is_made_again(postgres: EmbeddedPostgres) -> None:
    """Whoever removes old logs may remove their directory with them: the server starts all the same."""
    postgres.start()
    postgres.stop()
    shutil.rmtree(postgres.home / "postgres-log")
    assert postgres.start() is True


def started(postgres: EmbeddedPostgres) -> bool:
    """Whether it starts now."""
    try:
        return postgres.start()
    except PostgresError:
        return False


def test_two_starts_at_once_make_one_server(directory: Path) -> None:
    """Two commands that start together: one makes cluster and server, the other finds it."""
    clusters = [EmbeddedPostgres(directory) for _ in range(2)]
    results: list[bool] = []
    threads = [threading.Thread(target=lambda each=each: results.append(each.start())) for each in clusters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]
    assert clusters[0].running_pid() == clusters[1].running_pid()
    for each in clusters:
        each.stop()


@pytest.mark.parametrize("processes", [Path("/proc"), Path("/no/such/directory")])
def test_a_number_that_somebody_else_has_now_is_no_server(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, processes: Path
) -> None:
    """After a crash of the machine the old process ID may be another program's: it is not waited for."""
    monkeypatch.setattr(module, "PROC", processes)
    other, file = EmbeddedPostgres(postgres.data_dir), postgres.cluster / "postmaster.pid"
    assert postgres.start() is True
    assert other.running_pid() == postgres.running_pid() == postgres.process.pid
    left = file.read_text().split("\n", 1)[1]
    postgres.stop()
    for pid in (os.getpid(), 4_000_000, "nonsense")[0 if processes.exists() else 1 :]:
        file.write_text(f"{pid}\n{left}")
        assert other.running_pid() is None
        assert postgres.running_pid() is None
    file.write_text(f"{os.getpid() if processes.exists() else 4_000_000}\n{left}")
    assert postgres.start() is True


def test_only_its_owner_reaches_it(postgres: EmbeddedPostgres) -> None:
    """No TCP port, and a socket in a directory that nobody else may enter."""
    postgres.start()
    assert ask(postgres.url, "select current_setting('listen_addresses')") == ""
    assert stat.S_IMODE(postgres.sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(postgres.cluster.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["with blank %41&x=1", "a,b", "long-" + "x" * 100])
def test_a_path_may_be_odd_or_long(directory: Path, name: str) -> None:
    """Blanks, signs with a meaning in URLs, commas, and paths that no socket can have."""
    postgres = EmbeddedPostgres(directory / name)
    try:
        postgres.start()
        assert ask(postgres.url) == 1
    finally:
        postgres.stop()


def test_a_start_that_was_cut_off_is_made_good(postgres: EmbeddedPostgres) -> None:
    """A half-made cluster of an interrupted first start is thrown away."""
    (postgres.home / "postgres-new").mkdir()
    (postgres.home / "postgres-new" / "half").write_text("x")
    postgres.cluster.mkdir()
    (postgres.cluster / "half").write_text("x")
    assert postgres.start() is True
    assert ask(postgres.url) == 1


def test_a_server_that_ends_at_its_start_says_why(postgres: EmbeddedPostgres) -> None:
    """A cluster of an unknown version: the error is PostgreSQL's last word, and nothing is left running."""
    postgres.start()
    postgres.stop()
    (postgres.cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="PostgreSQL ended at its start: "):
        postgres.start()
    assert postgres.running_pid() is None


def test_a_start_that_fails_leaves_no_server(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs but cannot be made ready is stopped again."""
    monkeypatch.setitem(module.POSTGRES_SETTINGS, "default_transaction_read_only", "on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        postgres.start()
    assert postgres.running_pid() is None


def test_a_database_is_there_for_as_long_as_it_is_needed(directory: Path) -> None:
    """Started where it does not run, left alone where it does; DATABASE_URL is taken as it is."""
    settings = Settings(data_dir=directory)
    with database_url(settings.database_url, settings.data_dir) as url:
        assert ask(url) == 1
        with database_url(settings.database_url, settings.data_dir) as same:
            assert same == url
        assert ask(url) == 1
    assert EmbeddedPostgres(directory).running_pid() is None
    with database_url("postgresql://elsewhere/x", directory) as given:
        assert given == "postgresql://elsewhere/x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as somebody else")
def test_root_changes_nobodys_permissions(directory: Path) -> None:
    """Below a directory that the servant may not enter, the cluster lies elsewhere, and the directory stays closed."""
    directory.chmod(0o700)
    postgres = EmbeddedPostgres(directory / "data")
    try:
        assert postgres.start() is True
        assert ask(postgres.url, "select current_setting('data_directory')") == str(postgres.cluster)
        assert EmbeddedPostgres(directory / "data").home == postgres.home
        assert not postgres.home.is_relative_to(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    finally:
        postgres.stop()
        shutil.rmtree(postgres.home)


SOMEBODY = pwd.struct_passwd(("somebody", "x", 60_001, 60_001, "", "/", "/bin/false"))
MYSELF = pwd.getpwuid(os.geteuid())


def test_root_has_a_servant() -> None:
    """An ordinary user needs none; root takes the first known one that there is, or is told what to do."""
    postgres, nobody = (pwd.struct_passwd((name, "x", 1, 1, "", "/", "")) for name in ("postgres", "nobody"))
    assert servant(1000, [postgres]) is None
    assert servant(0, [SOMEBODY, nobody, postgres]) is postgres
    with pytest.raises(PostgresError, match="root needs one of the users deskledger, postgres, nobody"):
        servant(0, [SOMEBODY])


def test_who_may_enter(directory: Path) -> None:
    """Every directory of the path has to let the servant through: as its owner, or as anybody."""
    closed = directory / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    assert may_enter(directory, SOMEBODY)
    assert not may_enter(closed / "inner", SOMEBODY)
    assert may_enter(closed / "inner", MYSELF)
    assert may_enter(closed / "inner", None)


def test_a_cluster_that_lies_elsewhere_is_found_again(directory: Path) -> None:
    """The data directory remembers where; another data directory has a place of its own."""
    for name in ("one", "two"):
        (directory / name).mkdir(mode=0o700)
    elsewhere = directory / "elsewhere"
    homes = [home_of(directory / name, SOMEBODY, elsewhere) for name in ("one", "one", "two")]
    assert homes[0] == homes[1] != homes[2]
    assert {home.parent for home in homes} == {elsewhere}
    assert home_of(directory / "one", MYSELF, elsewhere) == directory / "one"


def test_binaries_are_copied_to_where_they_can_be_read(directory: Path) -> None:
    """Where the servant may not enter the wheel, a whole copy is made once, and it works."""
    package, copies = directory / "wheel" / package_dir().name, directory / "copies"
    copies.mkdir()
    (directory / "wheel").mkdir(mode=0o700)
    for name in (package.name, package.name + ".libs"):
        (directory / "wheel" / name).symlink_to(package_dir().with_name(name))
    made = programs_in(package, SOMEBODY, copies)
    assert made.is_relative_to(copies)
    assert subprocess.run([made / "initdb", "--version"], capture_output=True, check=True).stdout.startswith(b"initdb")
    (directory / "wheel" / f"{package.name}.libs").unlink()  # a second copy could not be made
    assert programs_in(package, SOMEBODY, copies) == made
    assert len(list(copies.iterdir())) == 1
    assert programs_in(package, MYSELF, copies) == package / "pginstall18" / "bin"


def test_a_strict_umask_locks_nobody_out(directory: Path) -> None:
    """Root's umask may be 077 when the wheel is installed and when the desk starts: the servant gets in."""
    package, elsewhere = directory / "wheel" / "pgserver", directory / "var" / "desk"
    before = os.umask(0o077)
    try:
        (package / "pginstall18" / "bin").mkdir(parents=True)
        (package / "pginstall18" / "bin" / "postgres").write_text("#!/bin/sh\n")
        (package / "pginstall18" / "bin" / "postgres").chmod(0o700)
        (package / "pginstall18" / "bin" / "latest").symlink_to("postgres")
        (package.with_name("pgserver.libs")).mkdir()
        (package.with_name("pgserver.libs") / "lib.so").write_text("x")
        (directory / "data").mkdir()
        (directory / "var").mkdir(mode=0o755)
        (directory / "var").chmod(0o755)
        made, home = programs_in(package, SOMEBODY, elsewhere), home_of(directory / "data", SOMEBODY, elsewhere)
    finally:
        os.umask(before)
    assert may_enter(made, SOMEBODY)
    assert may_enter(home, SOMEBODY)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.parents[2].rglob("*") if path.is_file()}
    assert modes == {"postgres": 0o755, "latest": 0o755, "lib.so": 0o644}


def test_a_wheel_that_is_not_there() -> None:
    """The error names the package, and the way without it."""
    with pytest.raises(PostgresError, match="the package no_such_wheel is not installed: install it, or set DATABASE"):
        package_dir("no_such_wheel")


def test_a_directory_of_somebody_else_is_not_taken(directory: Path) -> None:
    """What belongs to somebody else is refused; what is ours, or is to be the servant's, becomes private."""
    with pytest.raises(PostgresError, match="belongs to somebody else"):
        own_directory(Path("/proc/1") if os.geteuid() else owned_by_another(directory / "other"), None)
    for name, who in (("mine", None), ("servants", MYSELF)):
        own_directory(directory / name, who)
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o700


def test_a_link_is_not_followed(directory: Path) -> None:
    """Names under /tmp can be guessed: where somebody laid a link, nothing behind it changes hands."""
    (directory / "precious").mkdir(mode=0o755)
    (directory / "link").symlink_to(directory / "precious")
    for who in (None, MYSELF):
        with pytest.raises(PostgresError, match="belongs to somebody else"):
            own_directory(directory / "link", who)
    assert stat.S_IMODE((directory / "precious").stat().st_mode) == 0o755


def owned_by_another(path: Path) -> Path:
    """A directory of another user; only root can make one."""
    path.mkdir()
    os.chown(path, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    return path


def test_a_cluster_that_cannot_be_made_says_why(directory: Path) -> None:
    """initdb's own words are in the error."""
    postgres = EmbeddedPostgres(directory)
    with pytest.raises(PostgresError, match=r"initdb failed in .*no-such-option"):
        postgres._create(programs_in(package_dir(), postgres.servant), "--no-such-option")


def test_a_server_that_vanishes_while_one_waits(postgres: EmbeddedPostgres) -> None:
    """Adopted, then gone before it answers: that is said, and not waited for."""
    postgres.start()
    other = EmbeddedPostgres(postgres.data_dir)
    postgres.stop()
    with pytest.raises(PostgresError, match="no PostgreSQL runs on"):
        other._wait()
