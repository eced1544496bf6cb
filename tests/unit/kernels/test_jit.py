"""What is compiled, cached and borrowed: machine code is never older than the sources of what it calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featurestore
from featurestore.kernels.jit import borrowed, jit, keep

ASK = """
import numpy as np
from featurestore.kernels.core import _frame

edge, known = np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=np.int64)
nothing = np.zeros(0, dtype=np.int64)
policy, windows = np.zeros(3, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
_frame(nothing, nothing, np.array([100]), np.array([1_000]), policy, windows, edge, known)
print(known[0], sum(_frame.stats.cache_hits.values()))
"""


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_compiled_code_is_not_older_than_what_it_calls_in_other_files(tmp_path):
    package = Path(featurestore.__file__).parent
    shutil.copytree(package, tmp_path / "featurestore", ignore=shutil.ignore_patterns("__pycache__"))

    def ask():
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", ASK]
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return ran.stdout.split()

    assert ask() == ["100", "0"]
    assert ask() == ["100", "1"], "the cache is used"
    temporal = tmp_path / "featurestore" / "core" / "temporal.py"
    changed = temporal.read_text().replace(
        "return as_of_us + inclusive, min(as_of_us + inclusive, watermark_us)",
        "return as_of_us + inclusive, min(as_of_us + inclusive, watermark_us) + 1",
    )
    temporal.write_text(changed)
    assert ask() == ["101", "0"]


@jit
def _sums(numbers, scratch_size):
    numbers = borrowed(numbers)
    own = np.zeros(scratch_size, dtype=np.int64)
    scratch = borrowed(own)
    found = np.zeros(numbers.shape[0], dtype=np.int64)
    for i in range(numbers.shape[0]):
        row = numbers[i]
        for j in range(row.size):
            scratch[j % scratch_size] = row[j]
            found[i] += scratch[j % scratch_size]
    keep(own)
    return found


def test_what_is_borrowed_reads_and_writes_as_what_it_is_borrowed_from():
    numbers = np.arange(60_000, dtype=np.int64).reshape(300, 200)
    before = sys.getrefcount(numbers)
    for size in (1, 7, 5_000):
        np.testing.assert_array_equal(_sums(numbers, size), numbers.sum(axis=1))
    np.testing.assert_array_equal(_sums(numbers[::3, ::2], 3), numbers[::3, ::2].sum(axis=1))
    assert sys.getrefcount(numbers) == before


@jit
def _written(out, place):
    seen = borrowed(out)
    seen[place] = 5


def test_what_is_written_to_what_is_borrowed_is_written():
    out = np.zeros(3, dtype=np.int64)
    _written(out, 1)
    assert out.tolist() == [0, 5, 0]


def test_the_package_can_be_imported_from_an_archive(tmp_path):
    archive = shutil.make_archive(
        str(tmp_path / "package"), "zip", Path(featurestore.__file__).parent.parent, "featurestore"
    )
    command = [sys.executable, "-c", "import featurestore.kernels.core as core; print(core.__file__)"]
    environment = os.environ | {"PYTHONPATH": archive}
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(archive)
