"""Sources that accept pushes: from a pushed event to the state that lookups read.

A push is validated, committed to the log, and then folded into the online state of every view of the source that has
state. It is acknowledged once it is committed. Online state that lacks events catches up from the log: with the next
push, at the next start, or in the background.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from featurestore.core.answers import PushResult
from featurestore.core.errors import FeatureStoreError, RequestError, StorageError, unknown_stream
from featurestore.core.temporal import NOTHING_YET, Clock, duration_us
from featurestore.definitions.sources import Source
from featurestore.online.filling.materialize import DEFAULT_HISTORY_US, materialize_view
from featurestore.online.filling.runs import stream_of
from featurestore.online.filling.streaming import (
    Announcement,
    Stream,
    follow,
    materialized,
)
from featurestore.online.pushing.event_schema import EventSchema
from featurestore.online.pushing.group_commit import GroupCommit
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import ViewPlan
from featurestore.registry.catalog import Catalog
from featurestore.sources import ReadSettings, open_scans, read_schema
from featurestore.sources.content import content_of
from featurestore.sources.deliveries import one_delivery_each
from featurestore.sources.event_log import (
    MOST_AHEAD_US,
    MOST_ROWS,
    Appended,
    EventLog,
    Head,
    KnownKeysError,
    PushKey,
    head_ahead,
)
from featurestore.sources.event_log.maintenance import compact
from featurestore.sources.logged import reads_log
from featurestore.sources.outside import has_nothing_outside
from featurestore.sources.pushed import OutsideIds, Recent, id_values

RECHECK_US = duration_us("1s")
"""How long after an apply in another process pushes may be validated against the old definitions."""


_LOGGER = logging.getLogger("featurestore.online.pushing")

_FollowView: TypeAlias = Callable[[ViewPlan, Stream], int | None]
"""Folds the log up to its head into one view; returns the count of folded events, ``None`` if the view has no state."""


@dataclass(frozen=True)
class _PushOutcome:
    """The result of one push in a group commit.

    Attributes:
        accepted: The count of its events that were new.
        head: The log's head after the commit.
        is_followed: Whether online state has the events.
    """

    accepted: int
    head: Head
    is_followed: bool


@dataclass(frozen=True)
class _Push:
    """Events to commit.

    Attributes:
        events: The events.
        key: Digest of the idempotency key; empty if the push has none.
        content: Digest of the events; empty if there is no key.
    """

    events: pa.Table
    key: bytes = b""
    content: bytes = b""


@dataclass(frozen=True)
class _PushTarget:
    """A source that accepts pushes, as of one revision of the registry.

    Attributes:
        schema: The schema of its events.
        views: The views to update: those that read it in plans that are applied, live, or kept for a rollback.
        applied: Fingerprints of the applied views among these.
        outside_ids: The event ids outside the log.
        pushes: Commits pushes.
    """

    schema: EventSchema
    views: tuple[ViewPlan, ...]
    applied: frozenset[str]
    outside_ids: OutsideIds
    pushes: GroupCommit[_Push, _PushOutcome | RequestError]


class Streams:
    """The pushed sources of one store. May be used from several threads, and from several processes."""

    def __init__(
        self,
        catalog: Catalog,
        store: OnlineStore,
        log: EventLog,
        *,
        to_follow: Callable[[], Iterable[ViewPlan]],
        settings: ReadSettings,
        clock: Clock,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the parts.

        Args:
            catalog: The applied definitions.
            store: Where states are kept.
            to_follow: Returns the views to update; called when definitions or decisions change.
            log: The event log.
            settings: The resources that reading may use.
            clock: Returns the ingest time of an event.
            began: Called when a view has got its first state, which may let a plan go live.
        """
        self._catalog = catalog
        self._store = store
        self._began = began
        self._log = log
        self._to_follow = to_follow
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._bound: Mapping[str, _PushTarget] = {}
        self._revision = -1
        self._checked_at_us = NOTHING_YET
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def failure(self) -> Exception | None:
        """The last error of folding the log into online state; ``None`` once it has caught up."""
        return self._failure

    def push(self, source: str, events: Any, *, partial: bool, idempotency_key: str | None = None) -> PushResult:
        """Commit events and fold them; see ``FeatureStore.push``."""
        bound = self._source(source)
        table, rejected = bound.schema.read(events, partial=partial)
        outcome = bound.pushes.commit(_push_of(table, idempotency_key))
        if isinstance(outcome, RequestError):
            raise outcome
        return PushResult(
            source=source,
            accepted=outcome.accepted,
            duplicates=table.num_rows - outcome.accepted,
            sequence=outcome.head.next_sequence - 1,
            ingest_time_us=outcome.head.next_ingest_us,
            is_followed=outcome.is_followed,
            rejected=rejected,
        )

    def _commit(self, bound: _PushTarget, pushes: Sequence[_Push]) -> list[_PushOutcome | RequestError]:
        """Commit pushes of one source together; of pushes with the same idempotency key only the first, ever."""
        known: dict[bytes, PushKey] = {}
        while True:
            first: dict[bytes, _Push] = {}
            for push in pushes:
                if push.key and push.key not in known:
                    first.setdefault(push.key, push)
            new = [push for push in pushes if not push.key or first.get(push.key) is push]
            try:
                new_outcomes = self._commit_new(bound, new) if new else []
            except KnownKeysError:
                known = self._log.pushed_before(bound.schema.source.name, [push.key for push in pushes if push.key])
                continue
            break
        outcomes = {id(push): outcome for push, outcome in zip(new, new_outcomes, strict=True)}
        is_followed = (
            all(outcome.is_followed for outcome in new_outcomes)
            if new_outcomes
            else self._succeeds(partial(self._follow_alone, bound, bound.views))
        )
        earlier = {
            key: (push_key.content, _PushOutcome(push_key.accepted, push_key.head, is_followed))
            for key, push_key in known.items()
        }
        earlier |= {key: (push.content, outcomes[id(push)]) for key, push in first.items()}
        return [outcomes.get(id(push)) or _repeat_outcome(push, *earlier[push.key]) for push in pushes]

    def _commit_new(self, bound: _PushTarget, pushes: Sequence[_Push]) -> list[_PushOutcome]:
        """Commit and fold pushes of one source.

        Raises:
            KnownKeysError: The log already has the idempotency key of one of them; nothing was committed.
        """
        definition = bound.schema.source
        tables = [push.events for push in pushes]
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default").combine_chunks()
        owner = np.repeat(np.arange(len(pushes)), [len(events) for events in tables])
        if definition.event_id is not None:
            kept = one_delivery_each(table, definition.event_id)
            if not kept.all():
                table, owner = table.filter(pa.array(kept)), owner[kept]

        def accepted(places: Sequence[int]) -> list[int]:
            counts = np.bincount(owner[np.asarray(places, dtype=np.int64)], minlength=len(pushes))
            return [int(count) for count in counts]

        def keys(places: Sequence[int], head: Head) -> list[PushKey]:
            counts = zip(pushes, accepted(places), strict=True)
            return [PushKey(push.key, push.content, count, head) for push, count in counts if push.key]

        with Announcement(bound.views, self._store, self._log_now_us) as announcement:
            appended = self._log.append(
                definition.name,
                table,
                event_id=definition.event_id,
                convert=partial(id_values, source=definition.name),
                now_us=self._clock.now_us,
                keys=keys,
            )
            recent = _recent(appended)
            follow_view = partial(announcement.follow, history_us=DEFAULT_HISTORY_US)
            follow_announced = partial(self._follow, bound, announcement.views, follow_view, recent)
            is_followed = announcement.is_made and self._succeeds(follow_announced)
        if announcement.is_made:
            # Views that had no state when the push was announced. The locks are released: each view takes its own.
            announced = {view.fingerprint for view in announcement.views}
            others = [view for view in bound.views if view.fingerprint not in announced]
            is_followed &= not others or self._succeeds(partial(self._follow_alone, bound, others))
        is_followed &= announcement.is_made
        return [_PushOutcome(count, appended.head, is_followed) for count in accepted(appended.places)]

    def _log_now_us(self) -> int:
        """Return the present instant by the clock of the event log."""
        return self._log.now_us(self._clock.now_us())

    def catch_up(self) -> int:
        """Fold all logs up to their heads, so that online state is complete up to the present instant.

        Once the store is being closed, the remaining sources are skipped.

        Returns:
            The count of folded events, summed over views.

        Raises:
            SourceError: Events in the log, or rows outside, cannot be read by the present definition of the source.
            StateError: A stored state is damaged.
            StorageError: The log or the online store cannot be used.
        """
        folded = 0
        failures: list[Exception] = []
        for name, bound in self._sources().items():
            if self._stop.is_set():
                break
            try:
                self._log.seal(name, self._clock.now_us())
                folded += self._follow_alone(bound, bound.views)
            except Exception as error:  # raised below, after the other sources
                failures.append(error)
        if failures:
            raise failures[0]
        self._failure = None
        return folded

    def heads(self) -> dict[str, Head]:
        """Return the head of each source's log."""
        return {name: self._log.head(name) for name in self._sources()}

    def ahead_us(self) -> dict[str, int]:
        """Return how far the head of each source's log is ahead of the present; 0 if it is not."""
        machine_us = self._clock.now_us()
        return {name: self._log.ahead_us(name, machine_us=machine_us) for name in self._sources()}

    def problems(self) -> list[StorageError]:
        """Return an error for each log whose head is so far in the future that pushes are refused."""
        return [head_ahead(name, ahead_us) for name, ahead_us in self.ahead_us().items() if ahead_us > MOST_AHEAD_US]

    def redate(self, source: str | None) -> dict[str, int]:
        """Move heads in the future back to the present; return by source how many events got a new ingest time."""
        names = list(self._sources()) if source is None else [self._source(source).schema.source.name]
        machine_us = self._clock.now_us()
        return {name: self._log.redate(name, machine_us=machine_us) for name in names}

    def compact(self, source: str | None, *, before_us: int) -> dict[str, int]:
        """Move old events from the database to Parquet files; return by source how many."""
        names = list(self._sources()) if source is None else [self._source(source).schema.source.name]
        return {name: compact(self._log, name, before_us=before_us) for name in names}

    def forget(self) -> None:
        """Check the applied definitions again with the next push."""
        with self._lock:
            self._checked_at_us = NOTHING_YET

    def start(self, interval_seconds: float) -> None:
        """Catch up now and then periodically, in a thread that ends with ``close``."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, args=(interval_seconds,), daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """End the background thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, interval_seconds: float) -> None:
        while True:
            try:
                self.catch_up()
            except Exception as error:  # the next attempt may succeed
                self._note(error)
            if self._stop.wait(interval_seconds):
                return

    def _note(self, error: Exception) -> None:
        """Keep the reason why online state lags behind the log, and log it once."""
        if str(error) != str(self._failure):
            is_unexpected = not isinstance(error, FeatureStoreError)
            _LOGGER.warning("online state lags behind the event log: %s", error, exc_info=is_unexpected)
        self._failure = error

    def _succeeds(self, work: Callable[[], int]) -> bool:
        """Fold committed events; return whether online state has all of them."""
        try:
            work()
        except Exception as error:  # an error would make the caller push the committed events again
            self._note(error)
            return False
        return True

    def _follow_alone(self, bound: _PushTarget, views: Sequence[ViewPlan]) -> int:
        """Fold the log into views, each with its own lock; views without state get their first run."""
        with_state = {view.fingerprint for view in materialized(views, self._store)}

        def follow_view(view: ViewPlan, stream: Stream) -> int | None:
            if view.fingerprint not in with_state:
                return None
            return follow(view, stream, self._store, history_us=DEFAULT_HISTORY_US)

        return self._follow(bound, views, follow_view)

    def _follow(
        self, bound: _PushTarget, views: Sequence[ViewPlan], follow_view: _FollowView, recent: Recent | None = None
    ) -> int:
        """Fold the log of a source into views; a view that fails does not stop the others."""
        folded = 0
        failures: list[Exception] = []
        for view in views:
            stream = stream_of(bound.schema.source, view, self._settings, bound.outside_ids, recent)
            try:
                events = follow_view(view, stream)
                if (
                    events is None
                    and view.fingerprint in bound.applied
                    and has_nothing_outside(bound.schema.source, self._settings)
                ):
                    events = self._begin(bound, view, stream)
                folded += events or 0
            except Exception as error:  # raised below, after the other views
                failures.append(error)
        if failures:
            raise failures[0]
        return folded

    def _begin(self, bound: _PushTarget, view: ViewPlan, stream: Stream) -> int:
        """Run a view for the first time, which happens automatically if its source has only pushed events."""
        source = bound.schema.source
        until_us = self._log.seal(source.name, self._clock.now_us()).next_ingest_us
        with open_scans([view], {source.name: source}, self._settings) as scans:
            run = materialize_view(view, scans[view.name].outside(), self._store, until_us=until_us, stream=stream)
        with self._lock:
            self._revision = -1  # another plan may be live now, and the views to update differ
        self._began()
        return run.events

    def _source(self, name: str) -> _PushTarget:
        sources = self._sources()
        if name not in sources:
            raise unknown_stream(name, sources).in_request("/source")
        return sources[name]

    def _sources(self) -> Mapping[str, _PushTarget]:
        """Return the sources that accept pushes, as applied at most a second ago."""
        now_us = self._clock.now_us()
        with self._lock:
            if not 0 <= now_us - self._checked_at_us < RECHECK_US:
                revision = self._catalog.revision
                if revision != self._revision:
                    self._bound = self._bind_all()
                    self._revision = revision
                self._checked_at_us = now_us
            return self._bound

    def _bind_all(self) -> dict[str, _PushTarget]:
        sources = self._catalog.streams()
        followed = tuple(self._to_follow()) if sources else ()
        return {name: self._bind(source, followed) for name, source in sources.items()}

    def _bind(self, source: Source, followed: Iterable[ViewPlan]) -> _PushTarget:
        applied = [view for view in self._catalog.views().values() if view.source.name == source.name]
        views = tuple(view for view in followed if view.source.name == source.name and reads_log(source, view.source))
        schema = EventSchema.of(source, read_schema(source, self._settings), applied)
        fingerprints = frozenset(view.fingerprint for view in applied)
        pushes: GroupCommit[_Push, _PushOutcome | RequestError] = GroupCommit(
            lambda batch: self._commit(bound, batch), size=lambda push: int(push.events.num_rows), most=MOST_ROWS
        )
        bound = _PushTarget(schema, views, fingerprints, OutsideIds(source, self._settings), pushes)
        return bound


_LONGEST_KEY = 255


def _push_of(events: pa.Table, idempotency_key: str | None) -> _Push:
    """Return events to commit with their idempotency key.

    Raises:
        RequestError: The key is invalid.
    """
    if idempotency_key is None:
        return _Push(events)
    if not 0 < len(idempotency_key) <= _LONGEST_KEY or any(not " " < letter <= "~" for letter in idempotency_key):
        raise RequestError(
            f"{idempotency_key[:40]!r} is not a valid idempotency key",
            field="/idempotency_key",
            hint=f"Use up to {_LONGEST_KEY} visible ASCII characters without spaces, for instance a UUID.",
            code="idempotency-key",
        )
    key = hashlib.blake2b(idempotency_key.encode(), digest_size=16).digest()
    content = content_of([events]).to_bytes(8, "big") + events.num_rows.to_bytes(8, "big")
    return _Push(events, key, content)


def _repeat_outcome(push: _Push, content: bytes, earlier: _PushOutcome) -> _PushOutcome | RequestError:
    """Return the outcome of a push whose idempotency key was used before: the earlier one for the same events."""
    if push.content == content:
        return earlier
    return RequestError(
        "its idempotency key was used for a push of other events",
        field="/idempotency_key",
        hint="No event was accepted. Use a new key for each push, and the same key only to repeat a push.",
        code="idempotency-key-reused",
    )


def _recent(appended: Appended) -> Recent | None:
    """Return the appended events if online state can use them without reading them back: a single batch."""
    if appended.events.num_rows > MOST_ROWS:
        return None
    return Recent(appended.before, appended.head, appended.events, unique_by=appended.unique_by)
