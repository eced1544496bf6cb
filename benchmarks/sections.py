"""What is measured, section by section: each returns lines of Markdown."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.bench import CONTESTANTS, Bench
from benchmarks.measure import Measured, best_of, run
from benchmarks.serving import direct_answers, online_servers, pushes, server


def windows(bench: Bench) -> list[str]:
    """{count, sum, mean, min, max} × {1 h, 1 d, 7 d, 30 d}."""
    events = _events(bench)
    runs = {
        "this library": _best(bench, "ours", "windows", bench.root, events),
        "Polars, rolling over time": _best(bench, "windows_polars", bench.root),
        "DuckDB, as-of joins and RANGE": run(f"{CONTESTANTS}.windows_duckdb", bench.root),
    }
    _check_same(bench.root, "count_1h", "count_30d", "min_7d", "max_1d")
    head = (
        f"20 features over {bench.sizes.events:,} events of {data.USERS:,} users in 90 days, {bench.sizes.spine:,} rows"
    )
    return _table("Windows", head, runs)


def as_of(bench: Bench) -> list[str]:
    """The latest of eleven values."""
    bench.path("spine.parquet", lambda path: data.write_spine(path, bench.sizes.spine))
    events = bench.path("wide.parquet", lambda path: data.write_wide_events(path, bench.sizes.events))
    runs = {
        "this library": _best(bench, "ours", "as_of", bench.root, events),
        "Polars, join_asof": _best(bench, "as_of_polars", bench.root),
        "DuckDB, ASOF JOIN": _best(bench, "as_of_duckdb", bench.root),
    }
    head = f"The latest row of 13 columns among {bench.sizes.events:,}, for {bench.sizes.spine:,} rows"
    return _table("As of", head, runs)


def memory(bench: Bench) -> list[str]:
    """The windows job over more events than the limit holds."""
    bench.path("spine.parquet", lambda path: data.write_spine(path, bench.sizes.spine))
    events = bench.path("many.parquet", lambda path: data.write_events(path, bench.sizes.many_events))
    found = run(f"{CONTESTANTS}.ours", "windows", bench.root, events, "1GB")
    (bench.root / events).unlink()
    return [
        "## Memory",
        "",
        f'The windows job over {bench.sizes.many_events:,} events with `memory_limit = "1GB"`: '
        f"{found.seconds:.1f} s, process peak {found.peak_bytes / 1e9:.2f} GB.",
    ]


def online(bench: Bench) -> list[str]:
    """Lookups in process, and over HTTP."""
    folder = bench.folder("online")
    told = _best(bench, "online", folder, 500 if bench.is_quick else 5_000).more
    lines = [
        "## Online",
        "",
        "50 features in 5 views of one entity, SQLite; `store.get_online_features` with the serving log on.",
        "",
        "| entities | median µs | p99 µs |",
        "|---:|---:|---:|",
    ]
    for name, count in (("one", 1), ("ten", 10), ("hundred", 100)):
        lines.append(f"| {count} | {told[name]['median_us']:,.0f} | {told[name]['p99_us']:,.0f} |")
    return lines


def drift(bench: Bench) -> list[str]:
    """Two samples of 200 columns; the others get fewer columns, and time per column is compared."""
    rows, columns, fewer = bench.sizes.spine, 200, 4
    for side, shift in (("reference", 0.0), ("current", 0.3)):
        path = bench.root / f"drift_{side}.parquet"
        if not path.exists():
            data.write_sample(path, rows, columns, shift=shift)
    runs = {
        "this library: ten measures": (_best(bench, "drift", "ours", bench.root, columns), columns),
        "scipy: Kolmogorov-Smirnov and Wasserstein": (_best(bench, "drift", "scipy", bench.root, fewer), fewer),
    }
    # Evidently and this library want different pandas.
    if python := os.environ.get("EVIDENTLY_PYTHON"):
        found = run(f"{CONTESTANTS}.drift", "evidently", bench.root, fewer, python=python)
        runs["Evidently: Kolmogorov-Smirnov preset"] = found, fewer
    ours = runs["this library: ten measures"][0].seconds / columns
    lines = [
        "## Drift",
        "",
        f"Two samples of {rows:,} rows in memory, numbers of four shapes.",
        "",
        "| | columns | seconds | ms per column | × ours |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (found, count) in runs.items():
        each = found.seconds / count
        lines.append(f"| {name} | {count} | {found.seconds:.2f} | {1e3 * each:.1f} | {each / ours:.1f} |")
    return lines


def audit(bench: Bench) -> list[str]:
    """What was served, recomputed and compared; and the causes of what differs proven."""
    folder = bench.folder("audit")
    lines = [
        "## Audit",
        "",
        f"{bench.sizes.spine:,} served rows of 50 features, recomputed from {bench.sizes.events:,} events and compared "
        "to the bit; of the wrong rows half were answered while refreshes stood still, half lack some events.",
        "",
        "| rows served wrong | values that differ | verdict | explained | seconds | CPU s | process peak GB |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for wrong in (0.0, 0.02):
        given = (folder, bench.sizes.events, bench.sizes.spine, wrong)
        run(f"{CONTESTANTS}.audit", "build", *given)
        found = run(f"{CONTESTANTS}.audit", "audit", *given)
        told = found.more
        explained = 1 - told["causes"].get("unexplained", 0) / told["different"] if told["different"] else 1.0
        lines.append(
            f"| {wrong:.0%} | {told['different']:,} | {told['verdict']} | {explained:.1%} | {found.seconds:.1f} "
            f"| {told['cpu_seconds']:.1f} | {found.peak_bytes / 1e9:.2f} |"
        )
    return lines


def materialize(bench: Bench) -> list[str]:
    """Filling and refreshing online state of the as-of job."""
    events = bench.path("wide.parquet", lambda path: data.write_wide_events(path, bench.sizes.events))
    lines = [
        "## Materialize",
        "",
        f"The latest of eleven values among {bench.sizes.events:,} rows of 13 columns, from Parquet into an online "
        "store; a refresh brings the last of 90 days, another one nothing.",
        "",
        "| store | filled in s | events/s | states/s | refreshed in s | states/s | nothing new, ms | peak GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with online_servers() as others:
        for name, url in (("SQLite", ""), *others):
            found = run(f"{CONTESTANTS}.materialize", bench.root, events, *([url] if url else []))
            filled, refreshed, unchanged = (found.more[part] for part in ("filled", "refreshed", "unchanged"))
            rates = [count / filled["seconds"] for count in (filled["events"], filled["entities"])]
            lines.append(
                f"| {name} | {filled['seconds']:.1f} | {rates[0]:,.0f} | {rates[1]:,.0f} | {refreshed['seconds']:.2f} "
                f"| {refreshed['entities'] / refreshed['seconds']:,.0f} | {1000 * unchanged['seconds']:.0f} "
                f"| {found.peak_bytes / 1e9:.2f} |"
            )
    return lines


def start(bench: Bench) -> list[str]:
    """How long things take to begin."""
    bare = _seconds(sys.executable, "-c", "pass")
    imported = _seconds(sys.executable, "-c", "import featurestore")
    command = _seconds(str(Path(sys.executable).with_name("featurestore")), "--help")
    first = run(f"{CONTESTANTS}.first_answer", bench.folder("first"))
    return [
        "## Start",
        "",
        "| what | seconds |",
        "|---|---:|",
        f"| the interpreter alone | {bare:.2f} |",
        f"| `python -c 'import featurestore'` | {imported:.2f} |",
        f"| `featurestore --help` | {command:.2f} |",
        f"| from an empty folder to an audited answer, {5 * 20_000:,} events | {first.seconds:.1f} |",
        *_from_a_clone(bench.root / "clone"),
    ]


def _from_a_clone(folder: Path) -> list[str]:
    """Measure what a newcomer waits for: clone, install, and the first answer, for which the kernels are compiled."""
    root = Path(__file__).parents[1]
    begun = time.perf_counter()
    subprocess.run(["git", "clone", "--quiet", str(root), str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)
    python = folder / ".venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", "constraints.txt", "--editable", "."], check=True, cwd=folder)
    installed = time.perf_counter()
    answer = [str(python), "-m", f"{CONTESTANTS}.first_answer", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(answer, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=environment)
    answered = time.perf_counter()
    return [
        f"| from nothing to an audited answer: clone and install | {installed - begun:.0f} |",
        f"| … and the answer, for which the kernels are compiled | {answered - installed:.0f} |",
    ]


SECTIONS = {
    "windows": windows,
    "as_of": as_of,
    "memory": memory,
    "drift": drift,
    "audit": audit,
    "online": online,
    "server": server,
    "direct_answers": direct_answers,
    "pushes": pushes,
    "materialize": materialize,
    "start": start,
}


def _events(bench: Bench) -> str:
    bench.path("spine.parquet", lambda path: data.write_spine(path, bench.sizes.spine))
    return bench.path("events.parquet", lambda path: data.write_events(path, bench.sizes.events))


def _best(bench: Bench, contestant: str, *arguments: object) -> Measured:
    return best_of(bench.repeats, f"{CONTESTANTS}.{contestant}", *arguments)


def _check_same(folder: Path, *columns: str) -> None:
    """Make sure that all contestants answered the same question; what they add up may differ in the last digits."""
    polars, duckdb = (pq.read_table(folder / f"windows_{name}.parquet") for name in ("polars", "duckdb"))
    ours = pq.read_table(folder / "windows_ours")
    for name in columns:
        reference = ours.column(f"view__{name}").combine_chunks()
        for other in (polars, duckdb):
            if not reference.equals(other.column(name).combine_chunks().cast(reference.type)):
                raise RuntimeError(f"the contestants disagree about {name}")


def _table(title: str, head: str, runs: dict[str, Measured]) -> list[str]:
    ours = runs["this library"]
    lines = [
        f"## {title}",
        "",
        f"{head}; from Parquet to Parquet, each in a process of its own, once its libraries are loaded "
        f"(ours, with the compiled kernels, in {ours.more['loading_seconds']:.1f} s).",
        "",
        "| | seconds | × ours | process peak GB |",
        "|---|---:|---:|---:|",
    ]
    for name, found in runs.items():
        ratio = found.seconds / ours.seconds
        lines.append(f"| {name} | {found.seconds:.2f} | {ratio:.2f} | {found.peak_bytes / 1e9:.2f} |")
    return lines


def _seconds(*command: str) -> float:
    """Return how long a command takes: the quickest of several runs."""
    took = []
    for _ in range(7):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begun)
    return min(took)
