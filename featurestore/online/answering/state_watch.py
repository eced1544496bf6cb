"""Looking after the states that a process serves: whether the server drops keys, and whether states are gone.

A loss is written into the view's record, which every lookup of every process reads. A process that may not write keeps
what it found for itself. The work is done beside the lookups and takes a hundredth of the time, or less.
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
"""How often it is looked at most."""

_SHARE = 0.01
"""The share of the time that counting states may take."""

_LOGGER = logging.getLogger("featurestore.online.answering")


class LossReports(Protocol):
    """What is known of lost states beside what the records of their views say.

    Attributes:
        version: Changes with everything that is found; readers that know it need not ask again.
    """

    version: int

    @property
    def drops(self) -> StateError | None:
        """Why an absent state proves nothing at present; ``None`` if it means that there is none."""
        ...

    def loss_of(self, view: ViewPlan, /) -> StateError | None:
        """Return what was found of a view that its record could not be made to say; ``None`` if nothing was."""
        ...


class NoReports:
    """Reports of a reader of which nobody looks after the states."""

    version = 0
    drops = None

    def loss_of(self, _: ViewPlan) -> StateError | None:
        """Return ``None``."""
        return None


class StateWatch:
    """Looks after the states that a process serves, and keeps what it found. May be used from several threads."""

    def __init__(self, store: OnlineStore, views: Callable[[], Iterable[ViewPlan]]) -> None:
        """Take the parts; nothing is looked at yet.

        Args:
            store: Where states are kept.
            views: Gives the views that are answered.
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
        """Why an absent state proves nothing at present; ``None`` if it means that there is none."""
        return self._drops

    def loss_of(self, view: ViewPlan) -> StateError | None:
        """Return what was found of a view that its record could not be made to say; ``None`` if nothing was."""
        try:
            check_expiry(view, self._store)
        except StateError as error:
            return error
        loss = self._lost.get(view.fingerprint)
        return None if loss is None else loss_error(view.name, loss)

    def look(self, *, wait_seconds: float) -> None:
        """Look if it is due, in a thread; return when it has ended or time is up."""
        with self._lock:
            is_due = time.monotonic() >= self._due
            if is_due and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._look, name="looking after states", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(wait_seconds)

    def look_first(self, views: Collection[ViewPlan], *, wait_seconds: float) -> None:
        """Count the states of views that have not been counted yet; return when they are, or time is up.

        A process that begins to answer finds by this what was lost before it began. Counting goes on in a thread when
        time is up.

        Args:
            views: The views that are about to be answered.
            wait_seconds: How long to wait, also for counts that another caller has begun.
        """
        with self._lock:
            new = [view for view in views if view.fingerprint not in self._first_looks]
            if new:
                thread = threading.Thread(target=self._look_first, args=(new,), name="counting states", daemon=True)
                self._first_looks |= {view.fingerprint: thread for view in new}
                thread.start()
            looks = {self._first_looks[view.fingerprint] for view in views}
        until = time.monotonic() + wait_seconds
        for look in looks:
            look.join(max(0.0, until - time.monotonic()))

    def forget(self) -> None:
        """Forget what was found, and look anew with the next question: a run may have healed it."""
        with self._lock:
            self._lost.clear()
            self._first_looks.clear()
            self._due = self._count_due = 0.0
            self.version += 1

    def start(self) -> None:
        """Look again and again until closed."""

        def run() -> None:
            while not self._stop.wait(LOOK_SECONDS):
                self.look(wait_seconds=0)

        threading.Thread(target=run, name="watching states", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
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
            pass  # whoever asks is told that the store or the registry cannot answer; the next look may succeed
        finally:
            self._due = time.monotonic() + LOOK_SECONDS

    def _look_first(self, views: Iterable[ViewPlan]) -> None:
        try:
            self._look_at_server()
            for view in views:
                self._count(view)
        except FeatureStoreError:
            pass  # whoever asks is told so; looks from now on count these views, too

    def _look_at_server(self) -> None:
        reason = why_it_drops_keys(self._store)
        drops = _as_state_error(drops_keys(reason)) if reason else None
        if str(drops) != str(self._drops):
            self._drops = drops
            if drops is not None:
                _LOGGER.warning("%s", drops)

    def _count(self, view: ViewPlan) -> None:
        """Count the states of a view, and write into its record if some are gone."""
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
        """Keep for this process what the view's record cannot be made to say."""
        with self._lock:
            self._lost[view.fingerprint] = loss
            self.version += 1

    def _drop(self, view: ViewPlan) -> None:
        """Drop what was kept of a view: its record says it by now, or a run has healed it."""
        with self._lock:
            if self._lost.pop(view.fingerprint, None) is not None:
                self.version += 1


def _as_state_error(error: StorageError) -> StateError:
    return StateError(error.problem, where=error.where, hint=error.hint, code=error.code)
