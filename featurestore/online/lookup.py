"""The online road: from a request to values, by the same kernels that build training sets.

A reader is made once per plan. A request costs one read of the store for all its entities and views, one decoding and
one kernel call per view; Arrow is touched only for on-demand features.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.dtypes import TIMESTAMP, DType, read_value
from featurestore.errors import (
    FingerprintMismatchError,
    InstantError,
    OutOfReachError,
    RequestError,
    did_you_mean,
    listing,
)
from featurestore.kernels.evaluate import Answer, bind, one_query_each
from featurestore.kernels.events import NO_EVENT, Status
from featurestore.kernels.on_demand import finish
from featurestore.online.keys import key_encoder
from featurestore.online.materialize import check_materialized
from featurestore.online.result import OnlineFeatures, ViewState
from featurestore.online.state import StateShape, block_of
from featurestore.online.store import OnlineStore, ViewRecord, decode_record, record_key, state_prefix
from featurestore.plan.model import Column, Plan, ViewUse
from featurestore.temporal import (
    MAX_INSTANT_US,
    MIN_INSTANT_US,
    Clock,
    SystemClock,
    format_instant,
    horizons,
    instant_us,
    is_stale,
    to_datetime,
)

STATUS_NAMES = tuple(status.name for status in Status)

_ENTITIES_AT_ONCE_HINT = "Give a list of objects, one per entity: [{…}, {…}]."


class _BoundUse:
    """One view of a service, ready to be asked."""

    def __init__(self, use: ViewUse) -> None:
        view = use.view
        self.use = use
        self.view = view
        self.bound = bind(view)
        self.shape = StateShape.of(view)
        self.record_key = record_key(view)
        self.valid = (0, state_prefix(view, 0))
        self.encode = key_encoder([key.dtype for key in view.entity.keys])
        self.names = tuple(f"{use.alias}__{feature.name}" for feature in view.features)
        self._known: tuple[bytes | None, ViewRecord] = (None, decode_record(view, None))
        self.policy = (view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive))

    def record(self, stored: bytes | None) -> ViewRecord:
        """Read the view's record; one that has not changed is not decoded again."""
        known, record = self._known
        if stored is None or stored != known:
            record = decode_record(self.view, stored)
            self._known = (stored, record)
        return record

    def state(self, as_of_us: int, watermark_us: int) -> ViewState:
        """Describe how complete an answer is."""
        period_us, _, inclusive = self.policy
        horizon, _ = horizons(as_of_us, watermark_us, *self.policy)
        is_behind = is_stale(as_of_us, watermark_us, *self.policy)
        complete = as_of_us if period_us > 0 and not is_behind else min(as_of_us, watermark_us - inclusive)
        return ViewState(watermark_us, complete, is_behind, horizon)


class OnlineReader:
    """Answers one feature service from an online store. Safe to use from several threads."""

    def __init__(self, plan: Plan, store: OnlineStore, clock: Clock | None = None) -> None:
        """Bind the plan.

        Args:
            plan: The service.
            store: Where its views' states are.
            clock: Tells the instant that requests without ``as_of`` are about.
        """
        self.plan = plan
        self._store = store
        self._clock = clock or SystemClock()
        self._uses = [_BoundUse(use) for use in plan.uses]
        self._keys: dict[str, DType] = {column.name: column.dtype for column in plan.join_keys}
        self._columns = tuple(output.name for output in plan.outputs)
        self._dtypes = tuple(output.dtype for output in plan.outputs)
        places = {name: i for i, name in enumerate(name for use in self._uses for name in use.names)}
        self._picks = None if plan.on_demand else _picker([places[output.column] for output in plan.outputs])

    def get(
        self,
        entities: Sequence[Mapping[str, Any]],
        *,
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        expected_fingerprint: str | None = None,
        request_id: str | None = None,
    ) -> OnlineFeatures:
        """Answer for some entities at one instant.

        Args:
            entities: Per entity its key columns by name, of exactly their dtypes; duplicates are answered twice.
            request: Request inputs: one mapping for all entities, or one per entity.
            as_of: Instant asked about; the present one if not given.
            expected_fingerprint: The plan the caller was trained on; another live plan is an error.
            request_id: Name of the request; made up if not given.

        Returns:
            Values and statuses in the order of ``entities``.

        Raises:
            RequestError: A field is missing, unknown or of a wrong type; ``field`` points at it.
            OutOfReachError: ``as_of`` is earlier than the state of a view reaches.
            FingerprintMismatchError: The live plan is another than expected.
            StateError: A view has no state, or a damaged one.
            StorageError: The store cannot be read.
        """
        if expected_fingerprint is not None and expected_fingerprint != self.plan.fingerprint:
            raise _mismatch(self.plan, expected_fingerprint)
        asked = self._read_entities(entities)
        inputs = self._read_request(request, len(asked))
        as_of_us = self._clock.now_us() if as_of is None else _read_instant(as_of)
        records, stored = self._read_states(asked)
        queries = one_query_each(as_of_us, len(asked))
        rows: list[list[Any]] = [[] for _ in asked]
        statuses: list[list[int]] = [[] for _ in asked]
        event_times: dict[str, list[int | None]] = {}
        views: dict[str, ViewState] = {}
        for use, record, states in zip(self._uses, records, stored, strict=True):
            _check_reach(record, as_of_us)
            block, dictionaries = block_of(use.shape, states)
            answer = use.bound.answer(block, queries, watermark=record.watermark_us)
            for row, values in zip(rows, _values(answer, dictionaries), strict=True):
                row.extend(values)
            for status_row, codes in zip(statuses, answer.statuses.T.tolist(), strict=True):
                status_row.extend(codes)
            event_times[use.use.alias] = [None if at == NO_EVENT else at for at in answer.newest.tolist()]
            views[use.use.alias] = use.state(as_of_us, record.watermark_us)
        rows, statuses = self._outputs(rows, statuses, inputs, as_of_us)
        return OnlineFeatures(
            service=self.plan.name,
            fingerprint=self.plan.fingerprint,
            request_id=request_id or uuid.uuid4().hex,
            as_of_us=as_of_us,
            columns=self._columns,
            dtypes=self._dtypes,
            rows=rows,
            statuses=[[STATUS_NAMES[code] for code in row] for row in statuses],
            event_times=event_times,
            views=views,
            entities=asked,
            requests=inputs,
        )

    def _read_entities(self, entities: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if isinstance(entities, str | bytes | Mapping) or not isinstance(entities, Sequence):
            raise RequestError(
                f"got {type(entities).__name__}, expected a list", field="/entities", hint=_ENTITIES_AT_ONCE_HINT
            )
        return [self._read_entity(i, entity) for i, entity in enumerate(entities)]

    def _read_entity(self, number: int, entity: Mapping[str, Any]) -> dict[str, Any]:
        place = f"/entities/{number}"
        if not isinstance(entity, Mapping):
            raise RequestError(
                f"got {type(entity).__name__}, expected an object", field=place, hint=_ENTITIES_AT_ONCE_HINT
            )
        if len(entity) != len(self._keys):
            for name in entity:
                if name not in self._keys:
                    raise _unknown_field(f"{place}/{name}", "entity field", str(name), self._keys)
        found = {}
        for name, dtype in self._keys.items():
            if name not in entity:
                unknown = next((other for other in entity if other not in self._keys), None)
                if unknown is not None:
                    raise _unknown_field(f"{place}/{unknown}", "entity field", str(unknown), self._keys)
                raise RequestError(
                    f"entity field '{name}' is missing", field=place, hint=listing("Entity fields", self._keys)
                )
            found[name] = _read(dtype, entity[name], f"{place}/{name}")
        return found

    def _read_request(
        self, request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, count: int
    ) -> list[dict[str, Any]]:
        if not self.plan.request and not request:
            return [{}] * count
        if request is None:
            request = {}
        if isinstance(request, Mapping):
            return [_read_inputs(self.plan.request, request, "/request")] * count
        if isinstance(request, str) or not isinstance(request, Sequence) or len(request) != count:
            got = f"{len(request)} objects" if isinstance(request, Sequence) else type(request).__name__
            raise RequestError(
                f"got {got}, expected one object, or one for each of the {count} entities", field="/request"
            )
        return [_read_inputs(self.plan.request, row, f"/request/{i}") for i, row in enumerate(request)]

    def _read_states(self, asked: list[dict[str, Any]]) -> tuple[list[ViewRecord], list[list[bytes | None]]]:
        """Read the records and states of all views in one snapshot; once more if a view was switched meanwhile."""
        while True:
            valid = [use.valid for use in self._uses]
            keys = [
                [_state_key(use, prefix, row) for row in asked]
                for use, (_, prefix) in zip(self._uses, valid, strict=True)
            ]
            wanted = {key for column in keys for key in column if key is not None}
            found = self._store.read([*(use.record_key for use in self._uses), *wanted])
            records = [use.record(found.get(use.record_key)) for use in self._uses]
            is_valid = True
            for use, record, (generation, _) in zip(self._uses, records, valid, strict=True):
                check_materialized(record)
                if record.generation != generation:
                    use.valid = (record.generation, state_prefix(use.view, record.generation))
                    is_valid = False
            if is_valid:
                return records, [[None if key is None else found.get(key) for key in column] for column in keys]

    def _outputs(
        self, rows: list[list[Any]], statuses: list[list[int]], inputs: list[dict[str, Any]], as_of_us: int
    ) -> tuple[list[list[Any]], list[list[int]]]:
        """Pick the columns of the answer; on-demand features are computed first, if there are any."""
        if self._picks is not None:
            picks = self._picks
            return [list(picks(row)) for row in rows], [list(picks(row)) for row in statuses]
        columns: dict[str, pa.Array] = {}
        codes: dict[str, Any] = {}
        place = 0
        for use in self._uses:
            for name, feature in zip(use.names, use.view.features, strict=True):
                columns[name] = pa.array([row[place] for row in rows], type=feature.dtype.arrow)
                codes[name] = np.array([row[place] for row in statuses], dtype=np.uint8)
                place += 1
        asked = {c.name: pa.array([row[c.name] for row in inputs], type=c.dtype.arrow) for c in self.plan.request}
        instants = pa.array([to_datetime(as_of_us)] * len(rows), type=TIMESTAMP.arrow)
        values, found = finish(self.plan, columns, codes, asked, instants)
        if not rows:
            return [], []
        python = [values[name].to_pylist() for name in self._columns]
        return (
            [list(row) for row in zip(*python, strict=True)],
            [list(row) for row in zip(*(found[name].tolist() for name in self._columns), strict=True)],
        )


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a function that picks items of a row."""
    if len(places) == 1:
        return lambda row: (row[places[0]],)
    return itemgetter(*places)


def _state_key(use: _BoundUse, prefix: bytes, row: dict[str, Any]) -> bytes | None:
    key = use.encode([row[name] for name in use.use.keys])
    return None if key is None else prefix + key


def _values(answer: Answer, dictionaries: tuple[Any, ...]) -> list[list[Any]]:
    return answer.rows(lambda source, query: dictionaries[query][source] if dictionaries[query] else ())


def _check_reach(record: ViewRecord, as_of_us: int) -> None:
    if as_of_us < record.reach_us:
        raise OutOfReachError(
            f"{format_instant(as_of_us)} is earlier than the online state of feature view '{record.view}' reaches",
            field="/as_of",
            hint=f"It reaches back to {format_instant(record.reach_us)}; for earlier instants build a training set.",
        )


def _mismatch(plan: Plan, expected: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"the live plan of '{plan.name}' is {plan.fingerprint}, expected {expected}",
        field="/expected_fingerprint",
        hint="Train on the live definition, or apply the one the model was trained on.",
    )


def _read_instant(as_of: datetime | str) -> int:
    try:
        found = instant_us(as_of, where="as_of")
    except InstantError as error:
        raise RequestError(error.problem, field="/as_of", hint=error.hint, code=error.code) from None
    if not MIN_INSTANT_US <= found <= MAX_INSTANT_US:
        raise RequestError("as_of lies outside the years 1 to 9999", field="/as_of")
    return found


def _read_inputs(columns: Sequence[Column], row: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise RequestError(f"got {type(row).__name__}, expected an object", field=place)
    known = {column.name: column.dtype for column in columns}
    for name in row:
        if name not in known:
            raise _unknown_field(f"{place}/{name}", "request input", str(name), known)
    for name in known:
        if name not in row:
            raise RequestError(f"request input '{name}' is missing", field=place, hint=listing("Request inputs", known))
    return {name: _read(dtype, row[name], f"{place}/{name}") for name, dtype in known.items()}


def _read(dtype: DType, value: Any, place: str) -> Any:
    try:
        return read_value(dtype, value)
    except ValueError as error:
        raise RequestError(str(error), field=place, code="wrong-type") from None


def _unknown_field(place: str, what: str, name: str, known: Mapping[str, DType]) -> RequestError:
    hint = f"Known: {', '.join(known) or 'none'}. {did_you_mean(name, known)}".rstrip()
    return RequestError(f"unknown {what} '{name}'", field=place, hint=hint, code="unknown-field")
