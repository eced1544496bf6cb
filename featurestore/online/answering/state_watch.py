"""Watching the states that a process serves: whether the store's server evicts keys, and whether states are lost.

A loss is written into the view's record, which every lookup of every process reads. A process that cannot write keeps
the loss in memory. The checks run in the background and take at most a hundredth of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from featurestore.core.errors import FeatureStoreError, StateError, StorageError
from featurestore.online.state.losses import check_expiry, missing_states, note_loss
from featurestore.online.stores.errors import drops_keys
from featurestore.online.stores.store import (
    STATES_LOST,
    Loss,
    OnlineStore,
    loss_error,
    records_of,
    why_it_drops_keys,
)
from featurestore.plan.model import ViewPlan

LOOK_SECONDS = 1.0
"""The shortest interval between two checks."""

_SHARE = 0.01
"""The share of the time that counting states may take."""

_LOGGER = logging.getLogger("featurestore.online.answering")


class LossReports(Protocol):
    """Lost states that the records of their views do not show.

    Attributes:
        version: Changes with every report; a reader that has seen it need not ask again.
    """

    version: int

    @property
    def drops(self) -> StateError | None:
        """The error if an absent state may have been evicted; ``None`` if it means that the entity has none."""
        ...

    def loss_of(self, view: ViewPlan, /) -> StateError | None:
        """Return the loss of a view that could not be written into its record; ``None`` if there is none."""
        ...


class NoReports:
    """No reports, for a reader whose states are not watched."""

    version = 0
    drops = None

    def loss_of(self, _: ViewPlan) -> StateError | None:
        """Return ``None``."""
        return None


class StateWatch:
    """Watches the states that a process serves. May be used from several threads."""

    def __init__(self, store: OnlineStore, views: Callable[[], Iterable[ViewPlan]]) -> None:
        """Take the parts; nothing is checked yet.

        Args:
            store: Where states are kept.
            views: Returns the views that are answered.
        """
        self._store = store
        self._views = views
        self._lost: dict[str, Loss] = {}
        self._first_looks: dict[str, threading.Thread] = {}
        self._drops: StateError | None = None
        self._due = 0.0
        self._count_due = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.version = 0

    @property
    def drops(self) -> StateError | None:
        """The error if an absent state may have been evicted; ``None`` if it means that the entity has none."""
        return self._drops

    def loss_of(self, view: ViewPlan) -> StateError | None:
        """Return the loss of a view that could not be written into its record; ``None`` if there is none."""
        try:
            check_expiry(view, self._store)
        except StateError as error:
            return error
        loss = self._lost.get(view.fingerprint)
        return None if loss is None else loss_error(view.name, loss)

    def look(self, *, wait_seconds: float) -> None:
        """Check the states in a thread if a check is due; return when it has ended or the time is over."""
        with self._lock:
            is_due = time.monotonic() >= self._due
            if is_due and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._look, name="state check", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(wait_seconds)

    def look_first(self, views: Collection[ViewPlan], *, wait_seconds: float) -> None:
        """Count the states of views that have not been counted yet; return when that is done or the time is over.

        A process that begins to answer detects so what was lost before it began. When the time is over, a thread goes
        on counting.

        Args:
            views: The views that are about to be answered.
            wait_seconds: How long to wait, including for counts that another caller has begun.
        """
        with self._lock:
            new = [view for view in views if view.fingerprint not in self._first_looks]
            if new:
                thread = threading.Thread(target=self._look_first, args=(new,), name="state count", daemon=True)
                self._first_looks |= {view.fingerprint: thread for view in new}
                thread.start()
            looks = {self._first_looks[view.fingerprint] for view in views}
        until = time.monotonic() + wait_seconds
        for look in looks:
            look.join(max(0.0, until - time.monotonic()))

    def forget(self) -> None:
        """Drop all reports and check again with the next request: a run may have rebuilt the states."""
        with self._lock:
            self._lost.clear()
            self._first_looks.clear()
            self._due = self._count_due = 0.0
            self.version += 1

    def start(self) -> None:
        """Check periodically until closed."""

        def run() -> None:
            while not self._stop.wait(LOOK_SECONDS):
                self.look(wait_seconds=0)

        threading.Thread(target=run, name="state watch", daemon=True).start()

    def close(self) -> None:
        """Stop checking."""
        self._stop.set()
        with self._lock:
            looks = [*self._first_looks.values(), *([] if self._thread is None else [self._thread])]
        for look in looks:
            look.join()

    def _look(self) -> None:
        try:
            self._look_at_server()
            if time.monotonic() >= self._count_due:
                began = time.monotonic()
                for view in self._views():
                    self._count(view)
                took = time.monotonic() - began
                self._count_due = began + max(LOOK_SECONDS, took / _SHARE)
        except FeatureStoreError:
            pass  # requests report a store or registry that cannot answer; the next check may succeed
        finally:
            self._due = time.monotonic() + LOOK_SECONDS

    def _look_first(self, views: Iterable[ViewPlan]) -> None:
        try:
            self._look_at_server()
            for view in views:
                self._count(view)
        except FeatureStoreError:
            pass  # requests report it; the next checks count these views as well

    def _look_at_server(self) -> None:
        reason = why_it_drops_keys(self._store)
        drops = _as_state_error(drops_keys(reason)) if reason else None
        if str(drops) != str(self._drops):
            self._drops = drops
            if drops is not None:
                _LOGGER.warning("%s", drops)

    def _count(self, view: ViewPlan) -> None:
        """Count the states of a view, and record a loss if some are missing."""
        record = records_of(self._store, [view])[view.name]
        problem = "" if record.lost is not None else missing_states(view, self._store)
        if problem:
            loss = Loss(STATES_LOST, problem)
            _LOGGER.warning("%s", loss_error(view.name, loss))
            try:
                note_loss(view, self._store, loss)
            except StorageError:
                self._keep(view, loss)
        else:
            self._drop(view)

    def _keep(self, view: ViewPlan, loss: Loss) -> None:
        """Keep a loss in memory, because the view's record cannot be written."""
        with self._lock:
            self._lost[view.fingerprint] = loss
            self.version += 1

    def _drop(self, view: ViewPlan) -> None:
        """Drop the loss of a view that is kept in memory: its record reports it, or a run has rebuilt the states."""
        with self._lock:
            if self._lost.pop(view.fingerprint, None) is not None:
                self.version += 1


def _as_state_error(error: StorageError) -> StateError:
    return StateError(error.problem, where=error.where, hint=error.hint, code=error.code)
