"""Several processes that serve one socket, and the one that looks after them.

A worker that dies is started again; workers whose supervisor is gone end by themselves, as if they were asked to.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from threading import Thread

import uvicorn
from uvicorn.supervisors import Multiprocess

from featurestore.errors import ConfigError
from server import metrics
from server.app import Application, create_app
from server.settling import settle

FACTORY = "server.workers:create_worker"
"""Where uvicorn finds what a worker serves."""

_FOLDER_PREFIX = "featurestore-metrics-"


class Workers(Multiprocess):
    """The supervisor.

    Attributes:
        have_failed: Whether a worker could not start; then all are ended.
    """

    def __init__(self, settings: uvicorn.Config, listening: socket, data: Path, announce: Callable[[], None]) -> None:
        """Take the parts.

        Args:
            settings: How workers serve.
            listening: What they share.
            data: The data folder, for files that they share, if no temporary folder can be written.
            announce: Called once, when the first of them is ready.
        """
        super().__init__(settings, [listening])
        self._data = data
        self.have_failed = False
        self._announce: Callable[[], None] | None = announce

    def run(self) -> None:
        """Serve until a signal says stop, or a worker cannot start.

        Raises:
            ConfigError: There is no folder for the metrics that workers share.
        """
        with _shared_metrics(self._data):
            super().run()

    def terminate_all(self) -> None:
        """Ask the workers to finish, and stop listening here as they do there.

        As long as one process listens, the kernel completes connections that nobody accepts any more.
        """
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Look after the workers; called again and again."""
        if self.should_exit.is_set():
            return
        super().keep_subprocess_alive()
        self.have_failed = self.should_exit.is_set()
        if self._announce is not None and any(process.is_ready() for process in self.processes):
            self._announce()
            self._announce = None


def create_worker() -> Application:
    """Return what a worker serves, and end the worker once its supervisor is gone: it would keep the port."""
    supervisor = parent_process()
    assert supervisor is not None

    def follow() -> None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=follow, name="supervisor", daemon=True).start()
    return create_app(on_ready=settle)


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
