"""Histories in which the options of a source change: both roads of every plan say what the oracle says, or refuse.

Some seeds in every run, more by night. ``python -m tests.simulation.test_changing_options 10000 [first seed]`` runs
thousands, continues after a failure and counts.
"""

import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from tests.budget import times
from tests.simulation.changing_world import ChangingWorld

HISTORIES = 8
STEPS = 14


@pytest.mark.parametrize("first", range(0, times(HISTORIES), 2))
def test_both_roads_say_what_was_acknowledged_whatever_the_source_declares(tmp_path, first):
    """Options change between pushes, files, compactions, refills, restarts, promotes and rollbacks."""
    compared = {}
    for seed in (first, first + 1):
        compared = add(compared, run(tmp_path / str(seed), seed))
    assert compared["training"] > 10
    assert compared["online"] > 10


def run(folder, seed):
    """Live through one history; return how many answers were compared."""
    world = ChangingWorld(folder, seed)
    try:
        for _ in range(STEPS):
            world.step()
            if world.chance.random() < 0.5:
                world.check()
        world.refresh()
        world.check()
    except Exception as error:
        error.add_note("\n".join([f"seed {seed}", *world.story]))
        raise
    finally:
        world.close()
    return world.compared


def add(one, other):
    return {name: one.get(name, 0) + count for name, count in other.items()}


def main(count, first=0):
    compared, failed = {}, []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                compared = add(compared, run(Path(folder) / "world", seed))
            except Exception:
                failed.append(seed)
                traceback.print_exc()
        if (seed + 1 - first) % 50 == 0:
            print(f"{seed + 1 - first} histories, {compared} compared, failed: {failed}", flush=True)
    print(f"{count} histories, {compared} compared, failed: {failed}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
