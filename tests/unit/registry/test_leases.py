"""LeaseStore in the registry: one holder by the clock of the database, on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

from featurestore.core.errors import RegistryError, StateError
from featurestore.registry import Registry
from featurestore.registry.leases import RegistryLeases
from featurestore.registry.tables import LEASES
from featurestore.storage.database import open_database

FIRST, SECOND = b"1" * 16, b"2" * 16
PATIENCE_SECONDS = 20


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def engines(url):
    """Gives engines of a registry that has its tables, as processes of their own have them."""
    Registry(url).close()
    opened = []

    def engine():
        opened.append(open_database(url, where="registry"))
        return opened[-1]

    yield engine
    for each in opened:
        each.dispose()


@pytest.fixture
def leases(engines):
    return RegistryLeases(engines(), "registry")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("featurestore.registry.registry.LEASE_SECONDS", 1.0)


def run_out(engine, name="name"):
    with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(days=1)
        assert connection.execute(LEASES.update().where(LEASES.c.name == name).values(until=past)).rowcount == 1


def rows(engine):
    with engine.connect() as connection:
        return connection.execute(sa.select(LEASES.c.name, LEASES.c.token)).all()


def test_one_token_holds_a_name_until_it_gives_it_back(leases):
    assert leases.take("name", FIRST, 60)
    assert not leases.take("name", SECOND, 60)
    assert not leases.take("name", FIRST, 60), "a token is used once"
    assert leases.take("another", SECOND, 60)
    assert leases.renew("name", FIRST, 60)
    assert not leases.renew("name", SECOND, 60)
    assert not leases.release("name", SECOND)
    assert leases.release("name", FIRST)
    assert not leases.release("name", FIRST)
    assert not leases.renew("name", FIRST, 60)
    assert leases.take("name", SECOND, 60)


def test_a_lease_that_has_run_out_is_free_for_whoever_is_first(leases, engines):
    assert leases.take("name", FIRST, 60)
    run_out(engines())
    assert leases.renew("name", FIRST, 60), "nobody has taken it"
    assert not leases.take("name", SECOND, 60)
    run_out(engines())
    assert leases.take("name", SECOND, 60)
    assert not leases.renew("name", FIRST, 60)
    assert not leases.release("name", FIRST)
    assert rows(engines()) == [("name", SECOND.hex())]


def test_a_lease_lasts_for_as_long_as_it_was_given_and_no_longer(leases):
    begun = time.monotonic()
    assert leases.take("name", FIRST, 0.5)
    assert leases.renew("name", FIRST, 0.8)
    while not leases.take("name", SECOND, 60):
        assert time.monotonic() - begun < PATIENCE_SECONDS
        time.sleep(0.005)
    assert time.monotonic() - begun > 0.8


def test_the_clock_is_the_one_of_the_database(engines):
    """No machine tells the database what time it is, so machines whose clocks differ agree."""
    sent = []
    engine = engines()
    leases = RegistryLeases(engine, "registry")
    assert leases.take("name", FIRST, 60)  # a new connection also asks about the server
    sa.event.listen(engine, "before_cursor_execute", lambda *asked: sent.append(asked[2:4]))
    assert leases.renew("name", FIRST, 60)
    assert not leases.take("name", SECOND, 60)
    assert leases.release("name", FIRST)
    assert leases.take("name", SECOND, 60)
    known = {"name", FIRST.hex(), SECOND.hex()}
    given = [set(values.values() if isinstance(values, dict) else values) for text, values in sent if values]
    assert len(given) == 6
    assert all(values <= known for values in given)
    with engines().connect() as connection:
        clock = datetime.fromisoformat(str(connection.scalar(sa.text("SELECT CURRENT_TIMESTAMP"))))
        left = connection.scalar(sa.select(LEASES.c.until)).replace(tzinfo=UTC) - clock.replace(tzinfo=UTC)
    assert 50 < left.total_seconds() <= 61


@pytest.mark.parametrize("is_there", [False, True])
def test_of_many_that_ask_at_once_one_gets_it(engines, is_there):
    contenders = [RegistryLeases(engines(), "registry") for _ in range(6)]
    together = threading.Barrier(len(contenders), timeout=PATIENCE_SECONDS)

    def ask(number, name):
        together.wait()
        return contenders[number].take(name, bytes([number]) * 16, 60)

    with ThreadPoolExecutor(len(contenders)) as pool:
        for turn in range(10):
            name = f"name {turn}"
            if is_there:
                assert contenders[0].take(name, FIRST, 60)
                run_out(engines(), name)
            asked = [pool.submit(ask, number, name) for number in range(len(contenders))]
            taken = [number for number, answer in enumerate(asked) if answer.result(PATIENCE_SECONDS)]
            assert len(taken) == 1
            assert (name, (bytes(taken) * 16).hex()) in rows(engines())


@pytest.mark.parametrize("is_there", [False, True])
def test_whoever_waits_for_another_that_asks_at_the_same_time_does_not_get_it(postgres_database, is_there):
    """Another has the row locked, or has inserted it, and commits only after the question was put."""
    Registry(postgres_database).close()
    engine = open_database(postgres_database, where="registry")
    leases = RegistryLeases(engine, "registry")
    if is_there:
        assert leases.take("name", SECOND, 60)
        run_out(engine)
    taking = {
        True: "UPDATE registry_leases SET token = 'x', until = now() + INTERVAL '1 hour'",
        False: "INSERT INTO registry_leases VALUES ('name', 'x', now() + INTERVAL '1 hour')",
    }
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgres_database) as another:
        another.execute(taking[is_there])
        answer = pool.submit(leases.take, "name", FIRST, 60)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with psycopg.connect(postgres_database, autocommit=True) as admin:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while admin.execute(waiting).fetchone() == (0,):
                assert time.monotonic() < deadline
        another.commit()
        assert answer.result(PATIENCE_SECONDS) is False
    assert rows(engine) == [("name", "x")]
    engine.dispose()


def test_a_process_that_is_stopped_while_it_asks_keeps_no_row_locked(postgres_database):
    """Nobody could take over from a leader that hangs between a statement and its commit."""
    Registry(postgres_database).close()
    engine = open_database(postgres_database, where="registry")
    found = []

    def look(*_):
        with psycopg.connect(postgres_database) as another:
            found.append(another.execute("SELECT name FROM registry_leases FOR UPDATE NOWAIT").fetchall())

    leases = RegistryLeases(engine, "registry")
    sa.event.listen(engine, "after_cursor_execute", look)
    assert leases.take("name", FIRST, 60)
    assert leases.renew("name", FIRST, 60)
    assert leases.release("name", FIRST)
    assert found[-3:] == [[("name",)], [("name",)], []]
    engine.dispose()


def test_a_server_that_others_ask_in_vain_is_told_of_no_mistakes(postgres_database):
    """Who stands by asks every two seconds: each time it would be an error in the server's log."""
    Registry(postgres_database).close()
    engine = open_database(postgres_database, where="registry")
    failed = []
    sa.event.listen(engine, "handle_error", failed.append)
    leases = RegistryLeases(engine, "registry")
    assert leases.take("name", FIRST, 60)
    assert not leases.take("name", SECOND, 60)
    assert not failed
    engine.dispose()


@pytest.mark.usefixtures("short")
def test_a_name_is_held_for_as_long_as_the_process_says_so(url):
    with Registry(url) as registry, Registry(url) as another:
        with registry.exclusive("name") as hold:
            begun = time.monotonic()
            while time.monotonic() - begun < 2.5:
                with pytest.raises(StateError) as caught, another.exclusive("name"):
                    pass
                time.sleep(0.05)
            assert hold.is_held()
        assert (caught.value.code, caught.value.where) == ("busy", "registry")
        with another.exclusive("name"):
            pass


@pytest.mark.usefixtures("short")
def test_whoever_loses_a_name_is_told(url, engines):
    def lose(registry):
        with registry.exclusive("name") as hold:
            with engines().begin() as connection:
                connection.execute(LEASES.update().values(token="somebody"))
            assert not hold.is_held()

    with Registry(url) as registry:
        with pytest.raises(StateError) as caught:
            lose(registry)
        assert (caught.value.code, caught.value.where) == ("lease-lost", "registry")
        assert rows(engines()) == [("name", "somebody")], "the row is somebody else's"


HOLDING = """
import sys
from featurestore.registry import Registry
with Registry(sys.argv[1]) as registry, registry.exclusive("name"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_dies_lets_its_lease_run_out(url, engines):
    command = [sys.executable, "-c", HOLDING, url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "held\n"
        with Registry(url) as registry:
            with pytest.raises(StateError), registry.exclusive("name"):
                pass
            process.kill()
            process.wait(PATIENCE_SECONDS)
            with pytest.raises(StateError), registry.exclusive("name"):
                pass
            run_out(engines())
            with registry.exclusive("name") as hold:
                assert hold.is_held()


class Contender:
    """Takes a name again and again, and asks whether it holds it.

    Attributes:
        told: When it asked and when it was told that it does.
        sure: From when to when it held the name each time, at least, if what it was told is true.
    """

    def __init__(self, url):
        self.registry = Registry(url)
        self.told, self.sure = [], []

    def run(self, stop):
        while not stop.is_set():
            try:
                with self.registry.exclusive("name") as hold:
                    self._ask(hold, stop)
            except (StateError, RegistryError):
                stop.wait(0.02)

    def _ask(self, hold, stop):
        begun = asked = time.monotonic()
        while hold.is_held() and not stop.is_set():
            self.told.append((asked, time.monotonic()))
            self.sure.append((begun, asked))
            stop.wait(0.01)
            asked = time.monotonic()


def disturb(admin, is_enough):
    """Delete rows and end sessions for some seconds, and until it is enough."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    turn = 0
    while turn < 12 or not is_enough():
        assert time.monotonic() < deadline
        time.sleep(0.2)
        if turn % 3:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        else:
            admin.execute("DELETE FROM registry_leases")
        turn += 1


@pytest.mark.usefixtures("short")
def test_nobody_holds_a_name_beside_another_whatever_becomes_of_rows_and_sessions(postgres_database):
    contenders = [Contender(postgres_database) for _ in range(2)]
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool, psycopg.connect(postgres_database, autocommit=True) as admin:
        running = [pool.submit(contender.run, stop) for contender in contenders]
        try:
            disturb(admin, lambda: all(contender.told for contender in contenders))
        finally:
            stop.set()
        for each in running:
            each.result(PATIENCE_SECONDS)
    for one, another in (contenders, reversed(contenders)):
        one.registry.close()
        # What is told is true at some moment until it is told.
        beside = [
            (asked, told) for asked, told in one.told for begun, last in another.sure if begun <= asked and told <= last
        ]
        assert beside == []


@pytest.mark.parametrize("ask", ["take", "renew", "release"])
def test_a_database_that_cannot_be_asked_is_an_error_of_the_registry(engines, ask):
    engine = engines()
    LEASES.drop(engine)
    asked = getattr(RegistryLeases(engine, "registry"), ask)
    with pytest.raises(RegistryError) as caught:
        asked("name", FIRST, *([] if ask == "release" else [60]))
    assert caught.value.code == "registry-unavailable"


def test_processes_that_open_an_empty_registry_at_once_all_find_it_made(url):
    """On PostgreSQL a table that somebody else is making is not there yet, and its name is taken."""
    begin = threading.Barrier(6)

    def opened(_):
        begin.wait()
        with Registry(url) as registry:
            return registry.revision

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [0] * 6
