"""Machine code of kernels on disk: where it is read and written, and what happens where no folder is writable.

numba looks for one folder that can be written and refuses to go on without one. In a container the code may be in a
read-only folder, because it was compiled when the image was built, or there may be no folder at all. So code is read
from every folder in which numba could have put it, and written to the first writable one. Code that cannot be written
or read is compiled again by every process, with one warning.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from numba.core import caching, config, event, sigutils

_LOGGER = logging.getLogger("featurestore.kernels")

NOTICE_SECONDS = 1.0
"""Compiling that takes longer is announced."""

_numba: Any = caching  # it has no types
_config: Any = config
_DAMAGED = (OSError, EOFError, pickle.PickleError, ValueError, ImportError, AttributeError)
"""Errors that a truncated file, or one that another version wrote, may cause when it is read."""


@dataclass(frozen=True)
class Compiled:
    """The kernels that this process has compiled or read from disk.

    Attributes:
        compiled: Count of kernels compiled, once per combination of argument types.
        loaded: Count of kernels read from disk, likewise.
        folders: Folders that they are in.
        problem: Why they could not be written; empty if they were.
    """

    compiled: int
    loaded: int
    folders: tuple[str, ...]
    problem: str


class _ReadOnlyLocator(caching.UserWideCacheLocator):
    """Locator for a machine without a writable folder: functions can be decorated although no code is saved."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """Return the locator of any function that has a file."""
        return cls(py_func, py_file) if Path(py_file).exists() else None


class _Results(caching.CompileResultCacheImpl):
    _locator_classes = [*caching.CompileResultCacheImpl._locator_classes, _ReadOnlyLocator]  # noqa: RUF012  # numba's


class CodeCache(caching.FunctionCache):
    """The machine code of one function on disk, one file per combination of argument types.

    Machine code contains the code of the functions that it calls, which may stand in other files. Cached code is
    therefore valid only while no file of kernels has changed: an upgrade never runs the kernels of the old version.
    """

    _impl_class = _Results

    def __init__(self, function: Any) -> None:
        """Find the folders. Nothing is read yet."""
        super().__init__(function)  # type: ignore[no-untyped-call]
        stamp = (self._impl.locator.get_source_stamp(), _stamp_of_kernels())
        folders = dict.fromkeys([self._cache_path, *_folders(function)])
        self._files = [_numba.IndexDataCacheFile(folder, self._impl.filename_base, stamp) for folder in folders]
        self._cache_file = self._files[0]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for a signature, ``None`` if it must be compiled."""
        target_context.refresh()
        arguments, _ = sigutils.normalize_signature(sig)  # type: ignore[no-untyped-call]
        key = self._index_key(sig, target_context.codegen())  # type: ignore[no-untyped-call]
        for file in self._files:
            try:
                data = file.load(key)
                code = None if data is None else self._impl.rebuild(target_context, data)
            except _DAMAGED:
                continue
            # Processes that compile one function for several types at once may write each other's files.
            if code is not None and code.signature.args == arguments:
                _LOADED.append(file._cache_path)
                return code
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the code for a signature; if that is impossible, log one warning per process."""
        _COMPILED.append(self.cache_path)
        try:
            self._save(sig, data)
        except OSError as error:
            _warn_once(self.cache_path, error.strerror or str(error))

    def _save(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError:
            raise
        except _DAMAGED:  # the index is damaged
            self._cache_file.flush()  # type: ignore[no-untyped-call]
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def compiled() -> Compiled:
    """Return the kernels that this process has compiled or read from disk until now."""
    folders = tuple(sorted({*_LOADED, *_COMPILED}))
    return Compiled(len(_COMPILED), len(_LOADED), folders, _WARNED[0] if _WARNED else "")


_COMPILED: list[str] = []
_LOADED: list[str] = []


def _folders(function: Any) -> list[str]:
    """Return every folder in which numba may have put the code of a function."""
    file = function.__code__.co_filename
    locators = [_numba.InTreeCacheLocator, _numba.UserWideCacheLocator]
    if _config.CACHE_DIR:
        locators.insert(0, _numba.UserProvidedCacheLocator)
    return [locator(function, file).get_cache_path() for locator in locators]


@cache
def _stamp_of_kernels() -> bytes:
    """Return a digest of every file whose functions or numbers become part of the machine code of other files."""
    package = files("featurestore")
    kernels = (file for file in package.joinpath("kernels").iterdir() if file.name.endswith(".py"))
    core = (package.joinpath("core", name) for name in ("temporal.py", "statuses.py"))
    sources = [*sorted(kernels, key=lambda file: file.name), *core]
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in sources)).digest()


def _warn_once(folder: str, reason: str) -> None:
    """Warn that code cannot be saved, the first time in this process."""
    if not _WARNED:
        _WARNED.append(f"{folder}: {reason}")
        _LOGGER.warning(
            "compiled kernels cannot be written to '%s' (%s), so every process compiles them again. Set "
            "NUMBA_CACHE_DIR to a folder that can be written, or run 'featurestore warm' when the image is built.",
            folder,
            reason,
        )


_WARNED: list[str] = []


class _Notice(event.Listener):
    """Logs once that kernels are being compiled, as soon as that has taken ``NOTICE_SECONDS``.

    numba's lock lets one thread compile at a time.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._began = 0.0
        self._seconds = 0.0
        self._is_logged = False

    def on_start(self, event: Any) -> None:
        """Record that numba begins to compile a function."""
        if self._depth == 0:
            self._began = time.perf_counter()
        self._depth += 1
        self._log_if_slow(event)

    def on_end(self, event: Any) -> None:
        """Record that numba has compiled it."""
        self._log_if_slow(event)
        self._depth -= 1
        if self._depth == 0:
            self._seconds += time.perf_counter() - self._began

    def _log_if_slow(self, event: Any) -> None:
        if self._is_logged or not isinstance(getattr(event.data["dispatcher"], "_cache", None), CodeCache):
            return
        if self._seconds + time.perf_counter() - self._began > NOTICE_SECONDS:
            self._is_logged = True
            _LOGGER.warning(
                "compiling kernels: their first use on a machine takes some seconds. "
                "'featurestore warm' compiles them ahead."
            )


event.register("numba:compile", _Notice())  # type: ignore[no-untyped-call]
