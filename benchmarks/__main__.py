"""Measures and writes ``benchmarks/results.md``: ``python -m benchmarks [--quick] [--only SECTION …]``."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.data import Sizes
from benchmarks.measure import yardstick
from benchmarks.sections import SECTIONS

RESULTS = Path(__file__).parent / "results.md"
LIBRARIES = ("numpy", "numba", "pyarrow", "polars", "duckdb", "sqlalchemy", "fastapi", "uvicorn")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="featurestore-bench-", dir=options.folder) as folder:
        sizes = Sizes().divided(50) if options.quick else Sizes()
        bench = Bench(Path(folder), sizes, repeats=1 if options.quick else 3, is_quick=options.quick)
        parts, before = [], yardstick()
        for name in options.only or SECTIONS:
            print(f"measuring: {name}", flush=True)
            lines = SECTIONS[name](bench)
            print("\n".join(lines), flush=True)
            parts.append("\n".join(lines))
    text = "\n\n".join([_head(options.quick, before, yardstick()), *parts]) + "\n"
    if options.quick or options.only:
        print(f"{RESULTS.name} is written by a whole run only")
    else:
        RESULTS.write_text(text)


def _head(is_quick: bool, before: tuple[float, float], after: tuple[float, float]) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    note = " A quick run: the numbers mean nothing." if is_quick else ""
    return (
        "# Benchmarks\n\n"
        "Written by `make bench` in one run, on data generated from a seed; ratios mean more than seconds. The "
        f"quickest of three runs counts (of one for DuckDB's windows).{note}\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}; "
        f"{versions}. How fast the machine was, before and after: adding up ten million integers in Python took "
        f"{before[0]:.2f} and {after[0]:.2f} s, sorting ten million floats {before[1]:.2f} and {after[1]:.2f} s."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a fiftieth of the data, one run: only to see that it works"
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="sections to measure; writes no results")
    parser.add_argument("--folder", type=Path, help="where temporary data goes (about 3 GB)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
