"""The server under load, on every store, and what is pushed: sections of the benchmark, and what they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.bench import CONTESTANTS, Bench
from benchmarks.contestants.pushes import CALLERS, CROWD
from benchmarks.load import generator, load
from benchmarks.measure import run


def server(bench: Bench) -> list[str]:
    """Lookups over HTTP: stores, entities and connections."""
    seconds = 1 if bench.is_quick else 4
    lines = [
        "## Server",
        "",
        "50 features in 5 views of one entity over HTTP: one worker, the serving log on, and the load "
        f"({generator()}) on the same machine.",
        "",
        "| store | entities | connections | requests/s | median ms | p99 ms | errors |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    with ExitStack() as stack:
        for name, online in (("SQLite", ""), *stack.enter_context(online_servers())):
            folder = bench.folder(f"server_{name}")
            run(f"{CONTESTANTS}.online_store", folder, *([online] if online else []))
            with serving(folder / "store", online) as address:
                load(address, connections=8, seconds=1, entities=1, folder=folder)
                for entities in (1, 10, 100):
                    for connections in (1, 8, 32):
                        found = load(
                            address, connections=connections, seconds=seconds, entities=entities, folder=folder
                        )
                        lines.append(
                            f"| {name} | {entities} | {connections} | {found.requests_per_second:,.0f} "
                            f"| {found.median_ms:.2f} | {found.p99_ms:.2f} | {found.errors} |"
                        )
    return lines


def direct_answers(bench: Bench) -> list[str]:
    """Lookups with and without answers that need no ASGI task: the direct path stays while it is 1.2 times as cheap."""
    seconds, rounds = 1 if bench.is_quick else 2, 1 if bench.is_quick else 12
    folder = bench.folder("direct_answers")
    run(f"{CONTESTANTS}.online_store", folder)
    measured: list[tuple[float, float]] = []
    with (
        server_process(folder / "store") as direct_server,
        server_process(folder / "store", module=f"{CONTESTANTS}.asgi_server") as asgi_server,
    ):
        servers = (direct_server, asgi_server)
        for _, host, port in servers:
            load((host, port), connections=8, seconds=1, entities=1, folder=folder)
        for number in range(2 * rounds):
            pid, host, port = servers[number % 2]
            cpu_before = _cpu_seconds(pid)
            result = load((host, port), connections=8, seconds=seconds, entities=1, folder=folder)
            answers = max(1.0, result.requests_per_second * seconds)
            measured.append((result.requests_per_second, (_cpu_seconds(pid) - cpu_before) / answers * 1e6))
    direct, by_asgi = (
        (median(rate for rate, _ in runs), median(microseconds for _, microseconds in runs))
        for runs in (measured[0::2], measured[1::2])
    )
    return [
        "## Direct answers",
        "",
        "1 entity, 50 features, SQLite, 8 connections; the server as it is, and with every request answered by an ASGI "
        f"task. The two are asked in turns; medians of {rounds}. The direct path stays as long as an answer costs "
        "the server 1.2 times as much without it.",
        "",
        "| | requests/s | CPU µs per answer | × |",
        "|---|---:|---:|---:|",
        f"| direct | {direct[0]:,.0f} | {direct[1]:.0f} | 1.00 |",
        f"| by ASGI | {by_asgi[0]:,.0f} | {by_asgi[1]:.0f} | {by_asgi[1] / direct[1]:.2f} |",
    ]


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, as Linux counts it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pushes(bench: Bench) -> list[str]:
    """Pushed events, in process and over HTTP, by one caller and by several."""
    folder, events = bench.folder("pushes"), 2_000 if bench.is_quick else 60_000
    inside = run(f"{CONTESTANTS}.pushes", folder, events).more
    with serving(folder / "store") as (host, port):
        over_http = run(f"{CONTESTANTS}.pushes", folder, events, f"{host}:{port}").more
    return [
        "## Pushes",
        "",
        "Events of 10,000 users into the log and the states of a view of four features, both in SQLite, a hundred at a "
        "time; each is committed and synced before it is acknowledged. Over HTTP the load is on the same machine.",
        "",
        "| | callers | events/s |",
        "|---|---:|---:|",
        *(
            f"| in process | {callers} | {events / inside[f'pushed_{callers}']:,.0f} |"
            for callers in (1, CALLERS, CROWD)
        ),
        *(
            f"| in process, for each second of CPU | {callers} | {events / inside[f'cpu_{callers}']:,.0f} |"
            for callers in (1, CALLERS, CROWD)
        ),
        f"| over HTTP, as JSON | 1 | {events / over_http['json_1']:,.0f} |",
        f"| over HTTP, as JSON | {CALLERS} | {events / over_http[f'json_{CALLERS}']:,.0f} |",
        f"| over HTTP, as Arrow | {CALLERS} | {events / over_http[f'arrow_{CALLERS}']:,.0f} |",
    ]


@contextmanager
def online_servers() -> Iterator[list[tuple[str, str]]]:
    """Give names and URLs of stores in Redis and PostgreSQL, on servers like those of the tests, if there are any."""
    from tests.servers import GIVEN, postgres_folders, redis_programs, running_postgres, running_redis

    kinds = {
        "Redis": ("redis", redis_programs, running_redis, "prefix=bench"),
        "PostgreSQL": ("postgres", postgres_folders, running_postgres, "table=bench"),
    }
    with ExitStack() as stack:
        found = []
        for name, (kind, programs, running, options) in kinds.items():
            url = GIVEN[kind]
            if not url and (known := programs()):
                url = stack.enter_context(running(next(iter(known.values())))).url
            if url:
                found.append((name, f"{url}{'&' if '?' in url else '?'}{options}{os.getpid()}"))
        yield found


@contextmanager
def serving(store: Path, online: str = "") -> Iterator[tuple[str, int]]:
    """Serve what lies in a folder, with states in SQLite or the store of a URL; give the address."""
    with server_process(store, online) as (_, host, port):
        yield host, port


@contextmanager
def server_process(
    store: Path, online: str = "", module: str = "featurestore.server"
) -> Iterator[tuple[int, str, int]]:
    """Serve the store in a folder with a program; yield the server's process id and its address."""
    config = store.parent / "featurestore.toml"
    config.write_text(
        f'registry = "sqlite:///{store}/registry.db"\nonline = "{online or f"sqlite:///{store}/online.db"}"\n'
        f'event_log = "sqlite:///{store}/event_log.db"\ndata = "{store}"\n[server]\nauth = "none"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--config", str(config), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().rpartition("//")[2].strip()
        host, _, port = address.rpartition(":")
        yield process.pid, host, int(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
