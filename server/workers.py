"""Several processes that serve one socket, and the one that looks after them.

A worker that dies is started again; workers whose supervisor is gone end by themselves, as if they were asked to.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from socket import socket
from tempfile import TemporaryDirectory
from threading import Thread

import uvicorn
from uvicorn.supervisors import Multiprocess

from server import metrics
from server.app import Application, create_app
from server.settling import settle

FACTORY = "server.workers:create_worker"
"""Where uvicorn finds what a worker serves."""


class Workers(Multiprocess):
    """The supervisor.

    Attributes:
        have_failed: Whether a worker could not start; then all are ended.
    """

    def __init__(self, settings: uvicorn.Config, listening: socket, announce: Callable[[], None]) -> None:
        """Take the parts.

        Args:
            settings: How workers serve.
            listening: What they share.
            announce: Called once, when the first of them is ready.
        """
        super().__init__(settings, [listening])
        self.have_failed = False
        self._announce: Callable[[], None] | None = announce

    def run(self) -> None:
        """Serve until a signal says stop, or a worker cannot start."""
        with _shared_metrics():
            super().run()

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
def _shared_metrics() -> Iterator[None]:
    """Give workers a folder in which they keep their numbers for each other."""
    if metrics.FOLDER_VARIABLE in os.environ or not metrics.are_possible():
        yield
        return
    with TemporaryDirectory(prefix="featurestore-metrics-") as folder:
        os.environ[metrics.FOLDER_VARIABLE] = folder
        yield
