"""Sources that accept pushes: from an event handed in to the state that lookups read.

A push is checked, committed to the log, and then folded into the online state of every view of the source that has
one. The push is acknowledged once it is committed; what online state lacks then, it catches up from the log: with the
next push, on the next start, or in the background.
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
"""How long after an apply in another process pushes may still be checked against the old definitions."""


_LOGGER = logging.getLogger("featurestore.online.pushing")

_FollowView: TypeAlias = Callable[[ViewPlan, Stream], int | None]
"""Brings one view to the head of the log; gives how many events it folded, ``None`` if it was never materialized."""


@dataclass(frozen=True)
class _PushOutcome:
    """What became of one push among those that were committed together.

    Attributes:
        accepted: How many of its events were new.
        head: The log's head after them all.
        is_followed: Whether online state has them.
    """

    accepted: int
    head: Head
    is_followed: bool


@dataclass(frozen=True)
class _Push:
    """Events to commit.

    Attributes:
        events: The events.
        key: What stands for the push's idempotency key; empty if it has none.
        content: What stands for the events; empty if there is no key.
    """

    events: pa.Table
    key: bytes = b""
    content: bytes = b""


@dataclass(frozen=True)
class _PushTarget:
    """A source that accepts pushes, as of one revision of the registry.

    Attributes:
        intake: What its events must look like.
        views: The views that read it and are kept complete: of plans that are applied, live, or kept to roll back to.
        applied: Fingerprints of the applied ones of these.
        outside_ids: The event ids outside the log.
        pushes: Commits what is pushed.
    """

    intake: EventSchema
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
            catalog: What is applied.
            store: Where states are kept.
            to_follow: Gives the views whose states are kept complete; asked when definitions or decisions change.
            log: Where events are committed.
            settings: What reading may use.
            clock: Tells when an event became known.
            began: Is called when a view has got its first state, which may let a plan go live.
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
        """Why online state could not follow the log last; ``None`` once it has caught up."""
        return self._failure

    def push(self, source: str, events: Any, *, partial: bool, idempotency_key: str | None = None) -> PushResult:
        """Commit events and fold them; see ``FeatureStore.push``."""
        bound = self._source(source)
        table, rejected = bound.intake.read(events, partial=partial)
        committed = bound.pushes.commit(_push_of(table, idempotency_key))
        if isinstance(committed, RequestError):
            raise committed
        return PushResult(
            source=source,
            accepted=committed.accepted,
            duplicates=table.num_rows - committed.accepted,
            sequence=committed.head.next_sequence - 1,
            ingest_time_us=committed.head.next_ingest_us,
            is_followed=committed.is_followed,
            rejected=rejected,
        )

    def _commit(self, bound: _PushTarget, pushes: Sequence[_Push]) -> list[_PushOutcome | RequestError]:
        """Commit pushes of one source in one go; of those with one idempotency key only the first, ever."""
        known: dict[bytes, PushKey] = {}
        while True:
            first: dict[bytes, _Push] = {}
            for push in pushes:
                if push.key and push.key not in known:
                    first.setdefault(push.key, push)
            new = [push for push in pushes if not push.key or first.get(push.key) is push]
            try:
                done = self._commit_new(bound, new) if new else []
            except KnownKeysError:
                known = self._log.pushed_before(bound.intake.source.name, [push.key for push in pushes if push.key])
                continue
            break
        outcomes = {id(push): outcome for push, outcome in zip(new, done, strict=True)}
        is_followed = all(outcome.is_followed for outcome in done) if done else self._is_caught_up(bound)
        before = {key: (one.content, _PushOutcome(one.accepted, one.head, is_followed)) for key, one in known.items()}
        before |= {key: (push.content, outcomes[id(push)]) for key, push in first.items()}
        return [outcomes.get(id(push)) or _repeated(push, *before[push.key]) for push in pushes]

    def _commit_new(self, bound: _PushTarget, pushes: Sequence[_Push]) -> list[_PushOutcome]:
        """Commit and fold pushes of one source.

        Raises:
            KnownKeysError: The log has the idempotency key of one of them; nothing was committed.
        """
        definition = bound.intake.source
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

        with Announcement(bound.views, self._store, self._log_now_us) as announced:
            appended = self._log.append(
                definition.name,
                table,
                event_id=definition.event_id,
                convert=partial(id_values, source=definition.name),
                now_us=self._clock.now_us,
                keys=keys,
            )
            recent = _recent(appended)
            one = partial(announced.follow, history_us=DEFAULT_HISTORY_US)
            follow_announced = partial(self._follow, bound, announced.views, one, recent)
            is_followed = announced.is_made and self._succeeds(follow_announced)
        if announced.is_made:
            # Views that had no state when the push was announced. No lock is held any more: each waits for its own.
            known = {view.fingerprint for view in announced.views}
            others = [view for view in bound.views if view.fingerprint not in known]
            is_followed &= not others or self._succeeds(partial(self._follow_alone, bound, others))
        is_followed &= announced.is_made
        return [_PushOutcome(count, appended.head, is_followed) for count in accepted(appended.places)]

    def _log_now_us(self) -> int:
        """Return the present instant by the clock that gives events their ingest times."""
        return self._log.now_us(self._clock.now_us())

    def catch_up(self) -> int:
        """Fold what online state lacks of all logs, and let it be complete up to the present instant.

        Once the store is being closed, no further source is begun.

        Returns:
            How many events were folded, once for each view.

        Raises:
            SourceError: Events in the log, or rows outside, cannot be read as the source is declared now.
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
            except Exception as error:  # raised below, once the other sources were followed
                failures.append(error)
        if failures:
            raise failures[0]
        self._failure = None
        return folded

    def heads(self) -> dict[str, Head]:
        """Return how far the log of each source goes."""
        return {name: self._log.head(name) for name in self._sources()}

    def ahead_us(self) -> dict[str, int]:
        """Return how far the head of each source's log is ahead of the present; 0 where it is not."""
        machine_us = self._clock.now_us()
        return {name: self._log.ahead_us(name, machine_us=machine_us) for name in self._sources()}

    def problems(self) -> list[StorageError]:
        """Return an error for each log whose head is so far in the future that pushes are refused."""
        return [head_ahead(name, ahead_us) for name, ahead_us in self.ahead_us().items() if ahead_us > MOST_AHEAD_US]

    def redate(self, source: str | None) -> dict[str, int]:
        """Bring heads that lie in the future back to the present; return how many events got another ingest time."""
        names = list(self._sources()) if source is None else [self._source(source).intake.source.name]
        machine_us = self._clock.now_us()
        return {name: self._log.redate(name, machine_us=machine_us) for name in names}

    def compact(self, source: str | None, *, before_us: int) -> dict[str, int]:
        """Move old events from the database to Parquet files; return how many, by source."""
        names = list(self._sources()) if source is None else [self._source(source).intake.source.name]
        return {name: compact(self._log, name, before_us=before_us) for name in names}

    def forget(self) -> None:
        """Ask anew what is applied, with the next push."""
        with self._lock:
            self._checked_at_us = NOTHING_YET

    def start(self, interval_seconds: float) -> None:
        """Catch up now and then again and again, in a thread that ends with ``close``."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, args=(interval_seconds,), daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """End the background's work."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, interval_seconds: float) -> None:
        while True:
            try:
                self.catch_up()
            except Exception as error:  # whatever it is, the next attempt may succeed
                self._note(error)
            if self._stop.wait(interval_seconds):
                return

    def _note(self, error: Exception) -> None:
        """Remember why online state lags behind the log, and say it once."""
        if str(error) != str(self._failure):
            _LOGGER.warning("online state lags behind the event log: %s", error, exc_info=not _is_ours(error))
        self._failure = error

    def _succeeds(self, work: Callable[[], int]) -> bool:
        """Fold what was just appended; tell whether all of it is in online state."""
        try:
            work()
        except Exception as error:  # the events are committed: who is told anything else pushes them again
            self._note(error)
            return False
        return True

    def _is_caught_up(self, bound: _PushTarget) -> bool:
        """Fold what online state lacks of a source; tell whether every view has all of it."""
        try:
            self._follow_alone(bound, bound.views)
        except Exception as error:  # the events are committed: who is told anything else pushes them again
            self._note(error)
            return False
        return True

    def _follow_alone(self, bound: _PushTarget, views: Sequence[ViewPlan]) -> int:
        """Bring views to the head of their log, each while its own lock alone is held; those without state begin."""
        filled = {view.fingerprint for view in materialized(views, self._store)}

        def one(view: ViewPlan, stream: Stream) -> int | None:
            if view.fingerprint not in filled:
                return None
            return follow(view, stream, self._store, history_us=DEFAULT_HISTORY_US)

        return self._follow(bound, views, one)

    def _follow(
        self, bound: _PushTarget, views: Sequence[ViewPlan], one: _FollowView, recent: Recent | None = None
    ) -> int:
        """Bring views of a source to the head of its log; a view that fails does not keep the others behind."""
        folded = 0
        failures: list[Exception] = []
        for view in views:
            stream = stream_of(bound.intake.source, view, self._settings, bound.outside_ids, recent)
            try:
                events = one(view, stream)
                if (
                    events is None
                    and view.fingerprint in bound.applied
                    and has_nothing_outside(bound.intake.source, self._settings)
                ):
                    events = self._begin(bound, view, stream)
                folded += events or 0
            except Exception as error:  # raised below, once the other views were followed
                failures.append(error)
        if failures:
            raise failures[0]
        return folded

    def _begin(self, bound: _PushTarget, view: ViewPlan, stream: Stream) -> int:
        """Run a view for the first time, which needs no asking for if there is nothing to fold but pushed events."""
        source = bound.intake.source
        until_us = self._log.seal(source.name, self._clock.now_us()).next_ingest_us
        with open_scans([view], {source.name: source}, self._settings) as scans:
            run = materialize_view(view, scans[view.name].outside(), self._store, until_us=until_us, stream=stream)
        with self._lock:
            self._revision = -1  # another plan may be live now, and one less kept to roll back to
        self._began()
        return run.events

    def _source(self, name: str) -> _PushTarget:
        known = self._sources()
        if name not in known:
            raise unknown_stream(name, known).in_request("/source")
        return known[name]

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
        intake = EventSchema.of(source, read_schema(source, self._settings), applied)
        prints = frozenset(view.fingerprint for view in applied)
        pushes: GroupCommit[_Push, _PushOutcome | RequestError] = GroupCommit(
            lambda some: self._commit(bound, some), size=lambda push: int(push.events.num_rows), most=MOST_ROWS
        )
        bound = _PushTarget(intake, views, prints, OutsideIds(source, self._settings), pushes)
        return bound


_LONGEST_KEY = 255


def _push_of(events: pa.Table, idempotency_key: str | None) -> _Push:
    """Return events to commit with their idempotency key.

    Raises:
        RequestError: The key cannot be one.
    """
    if idempotency_key is None:
        return _Push(events)
    if not 0 < len(idempotency_key) <= _LONGEST_KEY or any(not " " < letter <= "~" for letter in idempotency_key):
        raise RequestError(
            f"{idempotency_key[:40]!r} cannot be an idempotency key",
            field="/idempotency_key",
            hint=f"Use up to {_LONGEST_KEY} visible characters of ASCII without spaces, for instance a UUID.",
            code="idempotency-key",
        )
    key = hashlib.blake2b(idempotency_key.encode(), digest_size=16).digest()
    content = content_of([events]).to_bytes(8, "big") + events.num_rows.to_bytes(8, "big")
    return _Push(events, key, content)


def _repeated(push: _Push, content: bytes, committed: _PushOutcome) -> _PushOutcome | RequestError:
    """Return the outcome of a push whose idempotency key was used before: the one it had then, for the same events."""
    if push.content == content:
        return committed
    return RequestError(
        "its idempotency key was used for a push of other events",
        field="/idempotency_key",
        hint="Nothing was taken. Use a new key for each push, and the same one only to repeat it.",
        code="idempotency-key-reused",
    )


def _is_ours(error: Exception) -> bool:
    """Tell whether an error says by itself where and why."""
    return isinstance(error, FeatureStoreError)


def _recent(appended: Appended) -> Recent | None:
    """Return what was appended if online state can take it without reading it back: one batch."""
    if appended.events.num_rows > MOST_ROWS:
        return None
    return Recent(appended.before, appended.head, appended.events, unique_by=appended.unique_by)
