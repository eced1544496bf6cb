"""Machine code on disk: read wherever it lies, written where that is possible, and never needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")

MODULE = """
from featurestore.kernels import code_cache
from featurestore.kernels.jit import jit

@jit
def twice(number):
    return 2 * number
"""
ASK = """
import logging, sys
logging.basicConfig(format="%(message)s")
from featurestore.kernels import code_cache
code_cache.NOTICE_SECONDS = float(sys.argv[1])
from own_kernels import twice
print(twice(21), twice(2.5), sum(twice.stats.cache_hits.values()))
"""


READ_ONLY = """
import errno, os, tempfile
def refuse(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")
tempfile.TemporaryFile = os.replace = refuse
"""
"""The tests may run as root, who may write anywhere."""


@pytest.fixture
def ask(tmp_path):
    """Return what calls a kernel in a process that may write neither beside the module nor at home."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "own_kernels.py").write_text(MODULE)
    (package / "__pycache__").write_text("a file, so that no folder can be made")

    def call(cache: Path | None, *, notice_seconds: float = 60, before: str = ""):
        environment = os.environ | {"PYTHONPATH": str(package), "HOME": "/proc/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"XDG_CACHE_HOME": "/proc/nowhere"}
        environment.pop("NUMBA_CACHE_DIR", None)
        if cache is not None:
            environment["NUMBA_CACHE_DIR"] = str(cache)
        command = [sys.executable, "-c", before + ASK, str(notice_seconds)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)

    return call


def test_without_a_folder_to_write_kernels_compile_in_memory_and_warn_once(ask):
    ran = ask(None)
    assert ran.stdout.split() == ["42", "5.0", "0"]
    assert ran.stderr.count("compiled kernels cannot be written") == 1
    assert "NUMBA_CACHE_DIR" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_folder_that_can_only_be_read_is_read(ask, tmp_path):
    """An image is built with the cache in it, and runs with a read-only file system."""
    cache = tmp_path / "cache"
    assert ask(cache).stdout.split()[-1] == "0"
    ran = ask(cache, before=READ_ONLY)
    assert ran.stdout.split() == ["42", "5.0", "2"]
    assert "cannot be written" not in ran.stderr


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle at all", bytes(200)])
def test_damaged_files_are_compiled_again(ask, tmp_path, content):
    cache = tmp_path / "cache"
    ask(cache)
    for path in cache.rglob("*.nbc"):
        path.write_bytes(content)
    assert ask(cache).stdout.split() == ["42", "5.0", "0"]
    for path in cache.rglob("*.nbi"):
        path.write_bytes(content)
    assert ask(cache).stdout.split()[:2] == ["42", "5.0"]
    assert ask(cache).stdout.split() == ["42", "5.0", "2"]


def test_code_for_other_types_is_not_taken(ask, tmp_path):
    """Processes that compile at once may leave one function's code for several types under each other's names."""
    cache = tmp_path / "cache"
    ask(cache)
    first, second = sorted(cache.rglob("*.nbc"))
    code = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(code)
    assert ask(cache).stdout.split() == ["42", "5.0", "0"]


def test_compiling_that_takes_long_is_announced_once(ask, tmp_path):
    cache = tmp_path / "cache"
    assert ask(cache, notice_seconds=0).stderr.count("featurestore warm") == 1
    assert "featurestore warm" not in ask(cache, notice_seconds=0).stderr
