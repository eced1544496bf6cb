"""Several processes that serve one socket, and the one that looks after them.

A worker that dies is started again; workers whose supervisor is gone end by themselves, as if they were asked to.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic

from featurestore.config import Config
from featurestore.core.errors import ConfigError, FeatureStoreError
from featurestore.server import metrics
from featurestore.server.app import create_app
from featurestore.server.process import Server
from featurestore.server.settling import settle

_LOGGER = logging.getLogger("featurestore.server")
_SPAWN = get_context("spawn")
_FOLDER_PREFIX = "featurestore-metrics-"
_LOOK_SECONDS = 0.2
_HUNG_SECONDS = 30.0
"""A worker in which no thread has answered for so long is ended, and another one started."""

_CANNOT_START = 3


class Workers:
    """The supervisor.

    Attributes:
        have_failed: Whether a worker could not start; then all are ended.
    """

    def __init__(self, file: Path, count: int, listening: socket, data: Path, announce: Callable[[], None]) -> None:
        """Take the parts.

        Args:
            file: The configuration.
            count: How many workers there are.
            listening: What they share.
            data: The data folder, for files that they share, if no temporary folder can be written.
            announce: Called once, when the first of them is ready.
        """
        self.have_failed = False
        self._file = file
        self._listening = listening
        self._data = data
        self._announce: Callable[[], None] | None = announce
        self._workers: list[_Worker] = []
        self._count = count
        self._is_asked = Event()
        self._is_to_renew = Event()

    def run(self) -> None:
        """Serve until a signal says stop, or a worker cannot start. SIGHUP renews the workers one after the other.

        Raises:
            ConfigError: There is no folder for the metrics that workers share.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._is_to_renew.set())
        with _shared_metrics(self._data):
            self._workers = [self._started() for _ in range(self._count)]
            while not self._is_asked.wait(_LOOK_SECONDS):
                self._look_after()
                if self._is_to_renew.is_set():
                    self._is_to_renew.clear()
                    self._renew()
            # A connection that only this process could accept would be reset in the end.
            self._listening.close()
            for worker in self._workers:
                worker.end()
            for worker in self._workers:
                worker.process.join()

    def _stop(self, *_: object) -> None:
        """End the workers; if they are ending, do not let them take their time."""
        if self._is_asked.is_set():
            for worker in self._workers:
                worker.end()
        self._is_asked.set()

    def _look_after(self) -> None:
        for place, worker in enumerate(self._workers):
            worker.look()
            if worker.is_alive():
                continue
            worker.kill()
            if worker.process.exitcode == _CANNOT_START:
                self.have_failed = True
                self._is_asked.set()
                return
            if not self._is_asked.is_set():
                self._workers[place] = self._started()
        if self._announce is not None and any(worker.is_ready for worker in self._workers):
            self._announce()
            self._announce = None

    def _renew(self) -> None:
        """Start a new worker for each, and end the old one once the new one serves."""
        for place, old in enumerate(self._workers):
            new = self._started()
            while new.is_alive() and not new.is_ready and not self._is_asked.wait(_LOOK_SECONDS):
                new.look()
            if self._is_asked.is_set() or not new.is_ready:
                new.kill()
                return
            self._workers[place] = new
            old.end()
            old.process.join()

    def _started(self) -> _Worker:
        return _Worker(self._file, self._listening)


class _Worker:
    """A process that serves, and the pipe by which it says that it is ready and lives.

    Attributes:
        process: The process.
        is_ready: Whether it has begun to take requests.
    """

    def __init__(self, file: Path, listening: socket) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(file, listening, theirs))
        self.process.start()
        theirs.close()
        self.is_ready = False
        self._has_answered = False
        self._asked_at: float | None = None

    def look(self) -> None:
        """Hear what the worker has answered, and ask again if it has."""
        with suppress(OSError, EOFError):
            while self._pipe.poll():
                self.is_ready = self._pipe.recv()
                self._has_answered, self._asked_at = True, None
            if self._asked_at is None:
                self._asked_at = monotonic()
                self._pipe.send(None)

    def is_alive(self) -> bool:
        """Tell whether the process runs and does not hang. One that is starting may take its time."""
        is_hung = self._has_answered and self._asked_at is not None and monotonic() - self._asked_at > _HUNG_SECONDS
        return self.process.is_alive() and not is_hung

    def end(self) -> None:
        """Ask the worker to end."""
        self.process.terminate()

    def kill(self) -> None:
        """End the worker without asking."""
        self.process.kill()
        self.process.join()


def _work(file: Path, listening: socket, pipe: Connection) -> None:
    """Serve in a process of its own."""
    is_ready = Event()
    Thread(target=_answer, args=(pipe, is_ready), name="supervisor", daemon=True).start()
    # uvicorn raises the signal that stopped it again, once all is closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    try:
        limits = Config.load(file).server
    except FeatureStoreError as error:
        _LOGGER.error("a worker cannot start: %s", error)
        sys.exit(_CANNOT_START)
    Server(create_app(on_ready=settle), limits, is_ready.set).run(sockets=[listening])


def _exit(*_: object) -> None:
    sys.exit(0)


def _answer(pipe: Connection, is_ready: Event) -> None:
    """Say that the worker lives whenever it is asked; end it once its supervisor is gone: it would keep the port."""
    with suppress(OSError, EOFError):
        while True:
            pipe.recv()
            pipe.send(is_ready.is_set())
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _shared_metrics(data: Path) -> Iterator[None]:
    """Give workers a folder in which they keep their numbers for each other."""
    if metrics.FOLDER_VARIABLE in os.environ or not metrics.are_possible():
        yield
        return
    with _temporary_folder(data) as folder:
        os.environ[metrics.FOLDER_VARIABLE] = folder
        yield


def _temporary_folder(data: Path) -> TemporaryDirectory[str]:
    """Make a folder where temporary files go, or else, as in a container whose file system is read-only, in ``data``.

    Raises:
        ConfigError: Neither can be written.
    """
    with suppress(OSError):
        return TemporaryDirectory(prefix=_FOLDER_PREFIX)
    try:
        data.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=_FOLDER_PREFIX, dir=data)
    except OSError as error:
        raise ConfigError(
            f"several workers need a folder for their metrics, and neither a temporary folder nor '{data}' can be "
            f"written: {error.strerror}",
            where="server",
            hint=f"Set TMPDIR or {metrics.FOLDER_VARIABLE} to a folder that can be written, or serve with one worker.",
            code="no-temporary-folder",
        ) from error
