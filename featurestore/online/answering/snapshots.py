"""The records and states of a service's views, read from the online store in one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from featurestore.core.answers import ViewState
from featurestore.core.columns import Ints
from featurestore.core.errors import StateError
from featurestore.core.temporal import NOTHING_YET, horizons, is_stale
from featurestore.online.answering.partial import ViewFailures
from featurestore.online.answering.state_watch import LossReports
from featurestore.online.state.keys import key_encoder
from featurestore.online.stores.store import (
    StateReads,
    ViewRecord,
    check_materialized,
    decode_record,
    record_key,
    state_prefix,
)
from featurestore.plan.model import ViewUse


class ViewReach(NamedTuple):
    """The range of time that a view's state covers; many views of a service have the same.

    Attributes:
        policy: Refresh period, refresh lag, inclusive.
        bound_us: Exclusive bound of the ingest times that an answer may use.
        watermark_us: The view's watermark.
        sound_us: The view's state is correct up to this instant; ``None`` if all of it is.
    """

    policy: tuple[int, int, int]
    bound_us: int
    watermark_us: int
    sound_us: int | None = None

    def state(self, as_of_us: int) -> ViewState:
        """Describe how complete an answer is."""
        period_us, _, inclusive = self.policy
        horizon, _ = horizons(as_of_us, self.bound_us, *self.policy)
        is_behind = is_stale(as_of_us, self.bound_us, *self.policy)
        complete = as_of_us if period_us > 0 and not is_behind else min(as_of_us, self.watermark_us - inclusive)
        if self.sound_us is not None:
            return ViewState(self.bound_us, min(complete, self.sound_us), True, horizon)
        return ViewState(self.bound_us, complete, is_behind, horizon)


class BoundUse:
    """One view of a service, with what every request needs of it."""

    def __init__(self, use: ViewUse) -> None:
        view = use.view
        self.view = view
        self.alias = use.alias
        self.record_key = record_key(view)
        self.names = use.columns
        self.policy = (view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive))
        self._decoded: tuple[bytes | None, ViewRecord] = (None, decode_record(view, None))

    def record(self, stored: bytes | None) -> ViewRecord:
        """Decode the view's record; a record that has not changed is not decoded again."""
        last, record = self._decoded
        if stored is None or stored != last:
            record = decode_record(self.view, stored)
            self._decoded = (stored, record)
        return record

    def reach(self, record: ViewRecord) -> ViewReach:
        """Return the range of time that the view's state covers, by its record."""
        sound_us = None if record.lost is None else record.lost.sound_us
        return ViewReach(self.policy, record.bound_us(self.policy[0]), record.watermark_us, sound_us)


@dataclass(frozen=True)
class RecordSnapshot:
    """The records of all views at one moment. They change seldom, so most requests use the same snapshot.

    Attributes:
        stored: The records as they are stored; ``None`` if a view could not answer, so that the next request decodes
            them again.
        records: The records.
        prefixes: Per view the bytes that the keys of its valid states begin with.
        reaches: The distinct ranges of time that the views' states cover.
        reach_of: Per view the position of its range among these.
        bounds_us: Per view the exclusive bound of the ingest times that an answer may use.
        reach_us: Earliest instant that all views can be asked about.
        has_pushes: Whether a push may be under way.
    """

    stored: list[bytes | None] | None
    records: list[ViewRecord]
    prefixes: list[bytes]
    reaches: list[ViewReach]
    reach_of: list[int]
    bounds_us: Ints
    reach_us: int
    has_pushes: bool


@dataclass(frozen=True)
class _KeyColumns:
    """Key columns of the request by which one or more views of a service are read.

    Attributes:
        names: The columns, in entity order.
        encode: Returns the bytes of a key.
        uses: Positions of the views.
    """

    names: tuple[str, ...]
    encode: Callable[[Sequence[Any]], bytes | None]
    uses: tuple[int, ...]

    def keys(self, entities: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """Return the key of each entity, ``None`` for those with a null in it."""
        return [self.encode([entity[name] for name in self.names]) for entity in entities]


def _key_columns(uses: Sequence[ViewUse]) -> tuple[_KeyColumns, ...]:
    """Group views by key columns, so that each key is encoded once."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, use in enumerate(uses):
        groups.setdefault(use.keys, []).append(position)
    return tuple(
        _KeyColumns(names, key_encoder([key.dtype for key in uses[group[0]].view.entity.keys]), tuple(group))
        for names, group in groups.items()
    )


class SnapshotReader:
    """Reads the records and states of a service's views. Safe to use from several threads."""

    def __init__(self, uses: Sequence[ViewUse], store: StateReads, watch: LossReports) -> None:
        """Take the parts; nothing is read yet.

        Args:
            uses: The views of the service.
            store: Where their states are kept.
            watch: Reports lost states that the records do not show.
        """
        self.uses = [BoundUse(use) for use in uses]
        self._store = store
        self._watch = watch
        self._watch_version = watch.version
        self._record_keys = [use.record_key for use in self.uses]
        self._key_columns = _key_columns(uses)
        empty = [ViewRecord(use.view.name, use.view.fingerprint) for use in uses]
        self._last = self._snapshot(None, empty, [state_prefix(use.view, 0) for use in uses])

    def read(
        self, entities: Sequence[Mapping[str, Any]], failures: ViewFailures
    ) -> tuple[RecordSnapshot, list[list[bytes | None]]]:
        """Read the records and states of all views in one snapshot; again if a rebuild was published meanwhile.

        Args:
            entities: The key columns of the entities.
            failures: Collects the failures of views.

        Returns:
            The records, and per view the state of each entity, ``None`` if it has none.

        Raises:
            StateError: A view has no usable state, and failures are not collected.
            StorageError: The store cannot be read.
        """
        encoded = [(columns.uses, columns.keys(entities)) for columns in self._key_columns]
        while True:
            snapshot = self._last
            keys: list[list[bytes | None]] = [[]] * len(self.uses)
            for views, entity_keys in encoded:
                for view in views:
                    prefix = snapshot.prefixes[view]
                    keys[view] = [None if key is None else prefix + key for key in entity_keys]
            state_keys = dict.fromkeys([key for column in keys for key in column if key is not None])
            values = self._store.read([*self._record_keys, *state_keys])
            prefixes = snapshot.prefixes
            stored = [values.get(key) for key in self._record_keys]
            watch_version = self._watch.version
            if stored != snapshot.stored or watch_version != self._watch_version:
                snapshot = self._last = self._decode(stored, prefixes, failures)
                self._watch_version = watch_version
            if snapshot.prefixes == prefixes:
                if self._watch.drops is not None:
                    _fail_absent(keys, values, self._watch.drops, failures)
                return snapshot, [[None if key is None else values.get(key) for key in column] for column in keys]

    def _decode(self, stored: list[bytes | None], prefixes: Sequence[bytes], failures: ViewFailures) -> RecordSnapshot:
        """Decode the records of all views; a damaged record counts as empty.

        Args:
            stored: The records as they are stored.
            prefixes: Per view the prefix of its states' keys so far; it stays for views that cannot answer.
            failures: Collects the failures of views.
        """
        records, valid_prefixes = [], []
        is_sound = True
        for view, (use, stored_record, prefix) in enumerate(zip(self.uses, stored, prefixes, strict=True)):
            record = ViewRecord(use.view.name, use.view.fingerprint)
            try:
                record = use.record(stored_record)
                check_materialized(record)
                if (loss := self._watch.loss_of(use.view)) is not None:
                    raise loss
            except StateError as error:
                failures.add(view, error)
                is_sound = False
                valid_prefixes.append(prefix)
            else:
                valid_prefixes.append(state_prefix(use.view, record.generation))
            records.append(record)
        return self._snapshot(stored if is_sound else None, records, valid_prefixes)

    def _snapshot(
        self, stored: list[bytes | None] | None, records: list[ViewRecord], prefixes: list[bytes]
    ) -> RecordSnapshot:
        """Derive from records what every request needs of them."""
        reaches: dict[ViewReach, int] = {}
        reach_of = [
            reaches.setdefault(use.reach(record), len(reaches)) for use, record in zip(self.uses, records, strict=True)
        ]
        distinct = list(reaches)
        return RecordSnapshot(
            stored=stored,
            records=records,
            prefixes=prefixes,
            reaches=distinct,
            reach_of=reach_of,
            bounds_us=np.array([distinct[reach].bound_us for reach in reach_of], dtype=np.int64),
            reach_us=max((record.reach_us for record in records), default=NOTHING_YET),
            has_pushes=any(record.push_us is not None for record in records),
        )


def _fail_absent(
    keys: list[list[bytes | None]], values: Mapping[bytes, bytes], reason: StateError, failures: ViewFailures
) -> None:
    """Fail the views in which an entity has no state: the store may have dropped it."""
    for view, column in enumerate(keys):
        if view not in failures.by_view and any(key is not None and key not in values for key in column):
            failures.add(view, reason)
