"""The online road: from a request to values, by the same kernels that build training sets.

A reader is made once per plan. A request costs one read of the store for all its entities and views, one decoding and
one kernel call per view; Arrow is touched only for on-demand features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.answers import (
    Effort,
    OnlineFeatures,
    ViewError,
    ViewState,
)
from featurestore.core.columns import Ints
from featurestore.core.dtypes import TIMESTAMP, DType, read_value
from featurestore.core.errors import (
    FeatureStoreError,
    FingerprintMismatchError,
    InstantError,
    OutOfReachError,
    RequestError,
    StateError,
    StorageError,
    ValueOverflowError,
    did_you_mean,
    listing,
)
from featurestore.core.question import OnlineQuestion
from featurestore.core.request_ids import new_request_id
from featurestore.core.statuses import ERROR_CODE
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MIN_INSTANT_US,
    NOTHING_YET,
    Clock,
    SystemClock,
    format_instant,
    horizons,
    instant_us,
    is_stale,
    to_datetime,
)
from featurestore.definitions.udf import find_udf
from featurestore.kernels.evaluate import overflow
from featurestore.kernels.events import NO_EVENT
from featurestore.kernels.on_demand import finish
from featurestore.online.answering.bound_service import Answers, BoundService, Overflow
from featurestore.online.answering.partial import error_of, missing_columns, needing
from featurestore.online.answering.state_watch import LossReports, NoReports
from featurestore.online.state.keys import key_encoder
from featurestore.online.stores.errors import STORE_EVICTS
from featurestore.online.stores.store import (
    StateReads,
    ViewRecord,
    check_materialized,
    decode_record,
    record_key,
    state_prefix,
)
from featurestore.plan.model import Column, Plan, ViewUse

_OF_ONE_VIEW = (StateError, OutOfReachError)
"""Failures that are one view's; the others can be answered."""

_OF_AN_ENTITY = frozenset({"corrupt-state", "foreign-state", STORE_EVICTS, ValueOverflowError.default_code})
"""Codes of what a view may have failed by for one entity alone: questions for others have none of it."""

_ENTITIES_AT_ONCE_HINT = "Give a list of objects, one per entity: [{…}, {…}]."


class _ViewReach(NamedTuple):
    """How far a view's state reaches; for many views of a service it is the same.

    Attributes:
        policy: Refresh period, refresh lag, inclusive.
        bound_us: Exclusive bound of the ingest times an answer may use.
        watermark_us: The view's watermark.
        sound_us: Up to this instant the view's state is what it should be; ``None`` if it is altogether.
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


class _BoundUse:
    """One view of a service, ready to be asked."""

    def __init__(self, use: ViewUse) -> None:
        view = use.view
        self.view = view
        self.alias = use.alias
        self.record_key = record_key(view)
        self.names = use.columns
        self.policy = (view.refresh.period_us, view.refresh.lag_us, int(view.source.inclusive))
        self._known: tuple[bytes | None, ViewRecord] = (None, decode_record(view, None))

    def record(self, stored: bytes | None) -> ViewRecord:
        """Read the view's record; one that has not changed is not decoded again."""
        known, record = self._known
        if stored is None or stored != known:
            record = decode_record(self.view, stored)
            self._known = (stored, record)
        return record

    def reach(self, record: ViewRecord) -> _ViewReach:
        """Return how far the view's state reaches that a record tells of."""
        sound_us = None if record.lost is None else record.lost.sound_us
        return _ViewReach(self.policy, record.bound_us(self.policy[0]), record.watermark_us, sound_us)


class _ParsedRequest(NamedTuple):
    """A question as it was read.

    Attributes:
        entities: Its entities.
        inputs: The request inputs of each.
        request_id: Its name.
    """

    entities: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    request_id: str


class _BatchAnswer(NamedTuple):
    """The answer for the entities of one or more questions; ``OnlineFeatures`` says what each part means."""

    as_of_us: int
    rows: list[list[Any]]
    codes: bytes
    event_times: list[list[int | None]]
    views: dict[str, ViewState]
    errors: dict[str, ViewError]
    read_seconds: float
    compute_seconds: float


_Lists = list[list[Any]]


@dataclass(frozen=True)
class RecordSnapshot:
    """What the records of all views said at one moment: they change seldom, so most questions find them told already.

    Attributes:
        stored: The records as they were stored; ``None`` if a view could not answer, so that it is told again.
        records: The records.
        prefixes: Per view what the keys of its valid states begin with.
        reaches: How far the views' states reach, each only once.
        reach_of: Per view which of these is its.
        bounds_us: Per view the exclusive bound of the ingest times an answer may use.
        reach_us: Earliest instant that all views can be asked about.
        has_pushes: Whether a push may be under way.
    """

    stored: list[bytes | None] | None
    records: list[ViewRecord]
    prefixes: list[bytes]
    reaches: list[_ViewReach]
    reach_of: list[int]
    bounds_us: Ints
    reach_us: int
    has_pushes: bool


@dataclass(frozen=True)
class _KeyColumns:
    """Key columns that one or more views of a service are asked by.

    Attributes:
        names: The columns of the request, in entity order.
        encode: Gives the bytes of a key.
        uses: Places of the views.
    """

    names: tuple[str, ...]
    encode: Callable[[Sequence[Any]], bytes | None]
    uses: tuple[int, ...]

    def keys(self, asked: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """Return the key of each entity, ``None`` for those with a null in it."""
        return [self.encode([row[name] for name in self.names]) for row in asked]


def _roles(uses: Sequence[ViewUse]) -> tuple[_KeyColumns, ...]:
    """Group views by key columns, so that each key is encoded once."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place, use in enumerate(uses):
        found.setdefault(use.keys, []).append(place)
    return tuple(
        _KeyColumns(names, key_encoder([key.dtype for key in uses[places[0]].view.entity.keys]), tuple(places))
        for names, places in found.items()
    )


class OnlineReader:
    """Answers one feature service from an online store. Safe to use from several threads."""

    def __init__(
        self, plan: Plan, store: StateReads, clock: Clock | None = None, watch: LossReports | None = None
    ) -> None:
        """Bind the plan.

        Args:
            plan: The service.
            store: Where its views' states are.
            clock: Tells the instant that requests without ``as_of`` are about.
            watch: Knows what states are lost, beside what their records say.

        Raises:
            UnknownUdfError: The plan calls a function that this process does not have.
        """
        for name, source in plan.udfs:
            find_udf(name, source)
        self.plan = plan
        self._watch: LossReports = watch or NoReports()
        self._watched = self._watch.version
        self._store = store
        self._clock = clock or SystemClock()
        self._uses = [_BoundUse(use) for use in plan.uses]
        self._aliases = tuple(use.alias for use in plan.uses)
        self._record_keys = [use.record_key for use in self._uses]
        nothing = [ViewRecord(use.view.name, use.view.fingerprint) for use in self._uses]
        self._told = self._tell(None, nothing, [state_prefix(use.view, 0) for use in self._uses])
        self._roles = _roles(plan.uses)
        self._keys: dict[str, DType] = {column.name: column.dtype for column in plan.join_keys}
        self._inputs: dict[str, DType] = {column.name: column.dtype for column in plan.request}
        self._columns = tuple(output.name for output in plan.outputs)
        self._dtypes = tuple(output.dtype for output in plan.outputs)
        places = {name: i for i, name in enumerate(name for use in self._uses for name in use.names)}
        self._picks = None if plan.on_demand else [places[output.column] for output in plan.outputs]
        self._bound = BoundService([use.view for use in plan.uses], self._picks)

    def get(
        self,
        entities: Sequence[Mapping[str, Any]],
        *,
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        expected_fingerprint: str | None = None,
        request_id: str | None = None,
        partial: bool = False,
    ) -> OnlineFeatures:
        """Answer for some entities at one instant.

        Args:
            entities: Per entity its key columns by name, of exactly their dtypes; duplicates are answered twice.
            request: Request inputs: one mapping for all entities, or one per entity.
            as_of: Instant asked about; the present one if not given. While events are pushed that is the instant at
                which the push under way began: none of what it brings is known yet.
            expected_fingerprint: The plan the caller was trained on; another one than the reader's is an error.
            request_id: Name of the request; made up if not given.
            partial: Whether views may answer if others cannot: their values are null with status ``ERROR``, and
                ``errors`` says why. If none can, that is an error all the same. A sum that does not fit takes away
                nothing but itself.

        Returns:
            Values and statuses in the order of ``entities``.

        Raises:
            RequestError: A field is missing, unknown or of a wrong type; ``field`` points at it.
            OutOfReachError: ``as_of`` is earlier than the state of a view reaches.
            FingerprintMismatchError: The plan is another than expected.
            ValueOverflowError: An exact sum that was asked for does not fit; ``field`` points at the first entity.
            StateError: A view has no state, or a damaged one.
            StorageError: The store cannot be read.
        """
        question = OnlineQuestion(self.plan.name, entities, request, as_of, expected_fingerprint, request_id, partial)
        (found,) = self.get_many([question])
        if isinstance(found, Exception):
            raise found
        return found

    def get_many(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several questions, each as if it had been asked by itself; the store is read once for all.

        Args:
            questions: Questions to this service, all of the same ``as_of`` and ``partial``.

        Returns:
            Per question its answer, or what ``get`` raises for it.
        """
        asked = [self._asked(question) for question in questions]
        sound = [one for one in asked if isinstance(one, _ParsedRequest)]
        answers = iter(self._answers(sound, questions[0].as_of, is_partial=questions[0].partial) if sound else ())
        return [next(answers) if isinstance(one, _ParsedRequest) else one for one in asked]

    def _asked(self, question: OnlineQuestion) -> _ParsedRequest | Exception:
        """Read a question; what is wrong with it is returned."""
        expected = question.expected_fingerprint
        if expected not in (None, self.plan.fingerprint) and not question.takes_live_plan:
            return fingerprint_mismatch(self.plan, expected)
        try:
            entities = self._read_entities(question.entities)
            inputs = self._read_request(question.request, len(entities))
        except Exception as error:  # it is the asker's, and nobody else's
            return error
        return _ParsedRequest(entities, inputs, question.request_id or new_request_id())

    def _answers(
        self, asked: Sequence[_ParsedRequest], as_of: datetime | str | None, *, is_partial: bool
    ) -> list[OnlineFeatures | Exception]:
        """Answer questions together; in halves if something is wrong with an entity, to learn of whose it is."""
        entities = [entity for one in asked for entity in one.entities]
        inputs = [row for one in asked for row in one.inputs]
        try:
            whole = self._whole(entities, inputs, as_of, is_partial=is_partial)
        except Exception as error:  # it is the askers'
            if len(asked) == 1 or not _is_of_an_entity(error):
                return [error] * len(asked)
            is_clean = False
        else:
            is_clean = len(asked) == 1 or _OF_AN_ENTITY.isdisjoint(error.code for error in whole.errors.values())
        if not is_clean:
            half = len(asked) // 2
            return [
                answer
                for some in (asked[:half], asked[half:])
                for answer in self._answers(some, as_of, is_partial=is_partial)
            ]
        ends = accumulate(len(one.entities) for one in asked)
        return [self._part(whole, one, end) for one, end in zip(asked, ends, strict=True)]

    def _whole(
        self,
        asked: list[dict[str, Any]],
        inputs: list[dict[str, Any]],
        as_of: datetime | str | None,
        *,
        is_partial: bool,
    ) -> _BatchAnswer:
        """Answer for some entities."""
        as_of_us = self._clock.now_us() if as_of is None else _read_instant(as_of)
        failures = _Failures(len(self._uses) if is_partial else 0)
        began = time.perf_counter()
        told, stored = self._read_states(asked, failures)
        was_read = time.perf_counter()
        if as_of is None and told.has_pushes:
            as_of_us = min(
                record.settled_us(as_of_us, use.policy[0]) for use, record in zip(self._uses, told.records, strict=True)
            )
        if as_of_us < told.reach_us:
            _check_reach(told.records, as_of_us, failures)
        answers = self._answer(stored, len(asked), as_of_us, told.bounds_us, failures)
        rows, codes = self._outputs(answers, inputs, as_of_us)
        errors = {self._uses[place].alias: error_of(failure) for place, failure in failures.found.items()}
        failed = frozenset(errors)
        if failed:
            self._take_out(missing_columns(self.plan, failed), range(len(asked)), rows, codes)
        if answers.overflows:
            self._take_overflows_out(answers.overflows, rows, codes, errors, is_partial=is_partial)
        states = [reach.state(as_of_us) for reach in told.reaches]
        return _BatchAnswer(
            as_of_us=as_of_us,
            rows=rows,
            codes=codes.T.tobytes(),
            event_times=[[None if at == NO_EVENT else at for at in newest] for newest in answers.newest],
            views={
                alias: states[reach]
                for alias, reach in zip(self._aliases, told.reach_of, strict=True)
                if alias not in failed
            },
            errors=errors,
            read_seconds=was_read - began,
            compute_seconds=time.perf_counter() - was_read,
        )

    def _part(self, whole: _BatchAnswer, asked: _ParsedRequest, end: int) -> OnlineFeatures:
        """Return one question's part of an answer; it ends where the next question's begins."""
        count, width = len(asked.entities), len(self._columns)
        begin = end - count
        return OnlineFeatures(
            service=self.plan.name,
            fingerprint=self.plan.fingerprint,
            request_id=asked.request_id,
            as_of_us=whole.as_of_us,
            columns=self._columns,
            dtypes=self._dtypes,
            rows=whole.rows[begin:end],
            codes=whole.codes[begin * width : end * width],
            event_times=dict(zip(self._aliases, [times[begin:end] for times in whole.event_times], strict=True)),
            views=whole.views.copy(),
            entities=asked.entities,
            requests=asked.inputs,
            keys=self._keys,
            inputs=self._inputs,
            errors=whole.errors.copy(),
            effort=Effort(whole.read_seconds, whole.compute_seconds, len(self._uses) * count),
        )

    def _read_entities(self, entities: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        is_list = isinstance(entities, list)  # mostly; what it is else takes longer to tell
        if not is_list and (isinstance(entities, str | bytes | Mapping) or not isinstance(entities, Sequence)):
            raise RequestError(
                f"got {type(entities).__name__}, expected a list", field="/entities", hint=_ENTITIES_AT_ONCE_HINT
            )
        return [self._read_entity(i, entity) for i, entity in enumerate(entities)]

    def _read_entity(self, number: int, entity: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if len(entity) == len(self._keys):
                return {name: read_value(dtype, entity[name]) for name, dtype in self._keys.items()}
        except (ValueError, LookupError, TypeError):
            pass
        return self._explain(f"/entities/{number}", entity)

    def _explain(self, place: str, entity: Any) -> dict[str, Any]:
        """Read an entity slowly, to say what is wrong with it."""
        if not isinstance(entity, Mapping):
            raise RequestError(
                f"got {type(entity).__name__}, expected an object", field=place, hint=_ENTITIES_AT_ONCE_HINT
            )
        return read_fields(entity, self._keys, place, "entity field")

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

    def _read_states(
        self, asked: Sequence[Mapping[str, Any]], failures: _Failures
    ) -> tuple[RecordSnapshot, list[list[bytes | None]]]:
        """Read the records and states of all views in one snapshot; once more if a view was switched meanwhile."""
        own_keys = [(role.uses, role.keys(asked)) for role in self._roles]
        while True:
            told = self._told
            keys: list[list[bytes | None]] = [[]] * len(self._uses)
            for places, encoded in own_keys:
                for place in places:
                    prefix = told.prefixes[place]
                    keys[place] = [None if key is None else prefix + key for key in encoded]
            wanted = dict.fromkeys([key for column in keys for key in column if key is not None])
            found = self._store.read([*self._record_keys, *wanted])
            prefixes = told.prefixes
            stored = [found.get(key) for key in self._record_keys]
            watched = self._watch.version
            if stored != told.stored or watched != self._watched:
                told = self._told = self._read_records(stored, prefixes, failures)
                self._watched = watched
            if told.prefixes == prefixes:
                if self._watch.drops is not None:
                    self._check_absent(keys, found, self._watch.drops, failures)
                return told, [[None if key is None else found.get(key) for key in column] for column in keys]

    def _check_absent(
        self,
        keys: list[list[bytes | None]],
        found: Mapping[bytes, bytes],
        why: StateError,
        failures: _Failures,
    ) -> None:
        """Fail the views in which an entity has no state: the store may have dropped it."""
        for place, column in enumerate(keys):
            if place not in failures.found and any(key is not None and key not in found for key in column):
                failures.keep(place, why)

    def _read_records(
        self, stored: list[bytes | None], prefixes: Sequence[bytes], failures: _Failures
    ) -> RecordSnapshot:
        """Read the records of all views; of one that is damaged none is left.

        Args:
            stored: The records as they are stored.
            prefixes: Per view what the keys of its states began with; it stays for views that cannot answer.
            failures: Takes what views cannot do.
        """
        records, valid = [], []
        is_sound = True
        for place, (use, own, prefix) in enumerate(zip(self._uses, stored, prefixes, strict=True)):
            record = ViewRecord(use.view.name, use.view.fingerprint)
            try:
                record = use.record(own)
                check_materialized(record)
                if (loss := self._watch.loss_of(use.view)) is not None:
                    raise loss
            except StateError as error:
                failures.keep(place, error)
                is_sound = False
                valid.append(prefix)
            else:
                valid.append(state_prefix(use.view, record.generation))
            records.append(record)
        return self._tell(stored if is_sound else None, records, valid)

    def _tell(
        self, stored: list[bytes | None] | None, records: list[ViewRecord], prefixes: list[bytes]
    ) -> RecordSnapshot:
        """Return what records say."""
        reaches: dict[_ViewReach, int] = {}
        reach_of = [
            reaches.setdefault(use.reach(record), len(reaches)) for use, record in zip(self._uses, records, strict=True)
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

    def _answer(
        self,
        stored: list[list[bytes | None]],
        count: int,
        as_of_us: int,
        bounds_us: Ints,
        failures: _Failures,
    ) -> Answers:
        """Evaluate states; for a partial answer those of views that fail are left out."""
        try:
            for place in failures.found:
                stored[place] = [None] * count
            return self._bound.answer(stored, count, as_of_us=as_of_us, bounds_us=bounds_us)
        except _OF_ONE_VIEW:
            if not failures.are_kept:
                raise
        for place, use in enumerate(self._uses):
            alone = BoundService([use.view])
            try:
                alone.answer([stored[place]], count, as_of_us=as_of_us, bounds_us=bounds_us[place : place + 1])
            except _OF_ONE_VIEW as error:
                failures.keep(place, error)
        for place in failures.found:
            stored[place] = [None] * count
        return self._bound.answer(stored, count, as_of_us=as_of_us, bounds_us=bounds_us)

    def _take_out(
        self, missing: Collection[str], entities: Sequence[int], rows: _Lists, codes: npt.NDArray[np.uint8]
    ) -> None:
        """Take the values of some columns out, for some entities."""
        for place, name in enumerate(self._columns):
            if name in missing:
                for entity in entities:
                    rows[entity][place] = None
                    codes[place, entity] = ERROR_CODE

    def _take_overflows_out(
        self,
        overflows: Sequence[Overflow],
        rows: _Lists,
        codes: npt.NDArray[np.uint8],
        errors: dict[str, ViewError],
        *,
        is_partial: bool,
    ) -> None:
        """Take the values out that need a sum which does not fit, and say so; what nobody asked for is no error.

        Raises:
            ValueOverflowError: There is such a value, and a part of the answer would not do.
        """
        found: dict[int, list[Overflow]] = {}
        for one in overflows:
            use = self._uses[one.view]
            missing = needing(self.plan, {use.names[one.feature]})
            if missing:
                found.setdefault(one.view, []).append(one)
                self._take_out(missing, one.entities, rows, codes)
        for place, own in found.items():
            use = self._uses[place]
            first = min(one.entities[0] for one in own)
            names = [use.names[one.feature] for one in own]
            failure = overflow(use.view.name, names, field=f"/entities/{first}")
            if not is_partial:
                raise failure
            errors.setdefault(use.alias, error_of(failure))

    def _outputs(
        self, answers: Answers, inputs: Sequence[Mapping[str, Any]], as_of_us: int
    ) -> tuple[_Lists, npt.NDArray[np.uint8]]:
        """Return the rows of the answer; on-demand features are computed first, if there are any."""
        if self._picks is not None:
            return answers.rows, answers.statuses
        known: dict[str, pa.Array] = {}
        codes: dict[str, npt.NDArray[np.uint8]] = {}
        names = [
            (name, feature) for use in self._uses for name, feature in zip(use.names, use.view.features, strict=True)
        ]
        columns = list(zip(*answers.rows, strict=True)) or [()] * len(names)
        for (name, feature), values, own in zip(names, columns, answers.statuses, strict=True):
            known[name] = pa.array(values, type=feature.dtype.arrow)
            codes[name] = own
        asked = {c.name: pa.array([row[c.name] for row in inputs], type=c.dtype.arrow) for c in self.plan.request}
        instants = pa.array([to_datetime(as_of_us)] * len(inputs), type=TIMESTAMP.arrow)
        found, found_codes = finish(self.plan, known, codes, asked, instants)
        values_of = [found[name].to_pylist() for name in self._columns]
        return (
            [list(row) for row in zip(*values_of, strict=True)],
            np.array([found_codes[name] for name in self._columns], dtype=np.uint8),
        )


class _Failures:
    """What views of one question could not do; the first failure of all views is one of the question.

    Attributes:
        are_kept: Whether failures of single views are kept; if not, the first one is raised.
        found: The failures by the place of the view.
    """

    def __init__(self, most: int) -> None:
        self.are_kept = most > 0
        self.found: dict[int, FeatureStoreError] = {}
        self._most = most

    def keep(self, place: int, failure: FeatureStoreError) -> None:
        """Keep what a view could not do; raise it if nothing is kept, or if no view is left."""
        self.found.setdefault(place, failure)
        if len(self.found) >= self._most:
            raise failure


def _check_reach(records: Sequence[ViewRecord], as_of_us: int, failures: _Failures) -> None:
    """Take down the views whose state does not reach back to an instant."""
    for place, record in enumerate(records):
        if as_of_us < record.reach_us:
            problem = (
                f"{format_instant(as_of_us)} is earlier than the online state of feature view '{record.view}' reaches"
            )
            hint = f"It reaches back to {format_instant(record.reach_us)}; for earlier instants build a training set."
            failures.keep(place, OutOfReachError(problem, field="/as_of", hint=hint))


def _is_of_an_entity(error: Exception) -> bool:
    """Tell whether a failure may be that of one entity, and not one of the store or of a view."""
    if isinstance(error, StateError):
        return error.code in _OF_AN_ENTITY
    return not isinstance(error, StorageError | OutOfReachError)


def fingerprint_mismatch(plan: Plan, expected: str | None) -> FingerprintMismatchError:
    """Return the error for a caller that expects a plan which cannot answer.

    Args:
        plan: The live plan.
        expected: Fingerprint of the other one.
    """
    return FingerprintMismatchError(
        f"the live plan of '{plan.name}' is {plan.fingerprint}, expected {expected}, which has no online state",
        field="/expected_fingerprint",
        hint="Train on the live definition, or apply the one the model was trained on and materialize it.",
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
    return read_fields(row, {column.name: column.dtype for column in columns}, place, "request input")


def read_fields(row: Mapping[str, Any], known: Mapping[str, DType], place: str, what: str) -> dict[str, Any]:
    """Read the fields of an object: exactly the known ones, each of its dtype."""
    for name in row:
        if name not in known:
            hint = f"Known: {', '.join(known) or 'none'}. {did_you_mean(str(name), known)}".rstrip()
            raise RequestError(f"unknown {what} '{name}'", field=_at(place, name), hint=hint, code="unknown-field")
    for name, dtype in known.items():
        if name not in row:
            hint = f"Expected {dtype}. {listing('Known', known)}"
            raise RequestError(f"{what} '{name}' is missing", field=_at(place, name), hint=hint, code="missing-field")
    return {name: _read(dtype, row[name], _at(place, name)) for name, dtype in known.items()}


def _at(place: str, name: object) -> str:
    """Return the JSON pointer to a field of an object."""
    return f"{place}/{str(name).replace('~', '~0').replace('/', '~1')}"


def _read(dtype: DType, value: Any, place: str) -> Any:
    try:
        return read_value(dtype, value)
    except ValueError as error:
        raise RequestError(str(error), field=place, code="wrong-type") from None
