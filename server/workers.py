"""Several processes that serve one socket, and their supervisor.

The supervisor restarts a worker that dies. Workers whose supervisor is gone stop by themselves.
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

_LOGGER = logging.getLogger("featurestore.server")
_SPAWN = get_context("spawn")
_FOLDER_PREFIX = "featurestore-metrics-"
_CHECK_SECONDS = 0.2
_HUNG_SECONDS = 30.0
"""A worker that has not answered the supervisor for this long is killed, and another one started."""

_CANNOT_START = 3


class Workers:
    """The supervisor.

    Attributes:
        have_failed: Whether a worker could not start; then all are stopped.
    """

    def __init__(self, file: Path, count: int, listening: socket, data: Path, announce: Callable[[], None]) -> None:
        """Create a supervisor; no worker is started yet.

        Args:
            file: The configuration.
            count: Number of workers.
            listening: The socket that they share.
            data: The data folder: shared files go here if no temporary folder can be written.
            announce: Called once, when the first worker is ready.
        """
        self.have_failed = False
        self._file = file
        self._listening = listening
        self._data = data
        self._announce: Callable[[], None] | None = announce
        self._workers: list[_Worker] = []
        self._count = count
        self._stop_requested = Event()
        self._renewal_requested = Event()

    def run(self) -> None:
        """Serve until a stop signal, or until a worker cannot start. SIGHUP replaces the workers one after the other.

        Raises:
            ConfigError: No folder for the metrics that workers share can be written.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._renewal_requested.set())
        with _shared_metrics(self._data):
            self._workers = [_Worker(self._file, self._listening) for _ in range(self._count)]
            while not self._stop_requested.wait(_CHECK_SECONDS):
                self._check_workers()
                if self._renewal_requested.is_set():
                    self._renewal_requested.clear()
                    self._renew()
            # Connections that only this process could accept would be reset.
            self._listening.close()
            for worker in self._workers:
                worker.stop()
            for worker in self._workers:
                worker.process.join()

    def _stop(self, *_: object) -> None:
        """Stop the workers; if they are stopping already, without draining."""
        if self._stop_requested.is_set():
            for worker in self._workers:
                worker.stop()
        self._stop_requested.set()

    def _check_workers(self) -> None:
        for index, worker in enumerate(self._workers):
            worker.check()
            if worker.is_alive():
                continue
            worker.kill()
            if worker.process.exitcode == _CANNOT_START:
                self.have_failed = True
                self._stop_requested.set()
                return
            if not self._stop_requested.is_set():
                self._workers[index] = _Worker(self._file, self._listening)
        if self._announce is not None and any(worker.is_ready for worker in self._workers):
            self._announce()
            self._announce = None

    def _renew(self) -> None:
        """Start a new worker for each, and stop the old one once the new one serves."""
        for index, old in enumerate(self._workers):
            new = _Worker(self._file, self._listening)
            while new.is_alive() and not new.is_ready and not self._stop_requested.wait(_CHECK_SECONDS):
                new.check()
            if self._stop_requested.is_set() or not new.is_ready:
                new.kill()
                return
            self._workers[index] = new
            old.stop()
            old.process.join()


class _Worker:
    """A serving process, and the pipe through which it reports that it is alive and ready.

    Attributes:
        process: The process.
        is_ready: Whether it accepts requests.
    """

    def __init__(self, file: Path, listening: socket) -> None:
        self._pipe, worker_end = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(file, listening, worker_end))
        self.process.start()
        worker_end.close()
        self.is_ready = False
        self._has_answered = False
        self._asked_at: float | None = None

    def check(self) -> None:
        """Read the worker's last reply, and send the next request once it has replied."""
        with suppress(OSError, EOFError):
            while self._pipe.poll():
                self.is_ready = self._pipe.recv()
                self._has_answered, self._asked_at = True, None
            if self._asked_at is None:
                self._asked_at = monotonic()
                self._pipe.send(None)

    def is_alive(self) -> bool:
        """Return whether the process runs and does not hang. A starting process may take any time."""
        is_hung = self._has_answered and self._asked_at is not None and monotonic() - self._asked_at > _HUNG_SECONDS
        return self.process.is_alive() and not is_hung

    def stop(self) -> None:
        """Ask the worker to stop."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill the worker."""
        self.process.kill()
        self.process.join()


def _work(file: Path, listening: socket, pipe: Connection) -> None:
    """Serve: the main function of a worker process."""
    is_ready = Event()
    Thread(target=_answer, args=(pipe, is_ready), name="supervisor", daemon=True).start()
    # uvicorn raises the signal again that stopped it, once everything is closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    try:
        limits = Config.load(file).server
    except FeatureStoreError as error:
        _LOGGER.error("a worker cannot start: %s", error)
        sys.exit(_CANNOT_START)
    Server(create_app(), limits, is_ready.set).run(sockets=[listening])


def _exit(*_: object) -> None:
    sys.exit(0)


def _answer(pipe: Connection, is_ready: Event) -> None:
    """Reply to the supervisor; stop the worker once the supervisor is gone, since it would keep the port."""
    with suppress(OSError, EOFError):
        while True:
            pipe.recv()
            pipe.send(is_ready.is_set())
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _shared_metrics(data: Path) -> Iterator[None]:
    """Provide a folder in which workers share their metrics."""
    if metrics.FOLDER_VARIABLE in os.environ or not metrics.are_possible():
        yield
        return
    with _temporary_folder(data) as folder:
        os.environ[metrics.FOLDER_VARIABLE] = folder
        yield


def _temporary_folder(data: Path) -> TemporaryDirectory[str]:
    """Create a temporary folder; in ``data`` if the system's temporary folder is read-only, as in some containers.

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
