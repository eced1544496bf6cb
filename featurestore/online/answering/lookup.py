"""The online path: from a request to values, by the same kernels that build training sets.

A reader is made once per plan. A request costs one read of the store for all its entities and views, and one compiled
call; Arrow is used only for on-demand features.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.answers import Effort, OnlineFeatures, OnlineQuestion, ViewError, ViewState
from featurestore.core.columns import Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import OutOfReachError, StateError, StorageError, ValueOverflowError
from featurestore.core.statuses import ERROR_CODE
from featurestore.core.temporal import Clock, SystemClock, format_instant, to_datetime
from featurestore.definitions.udf import find_udf
from featurestore.kernels.evaluate import overflow
from featurestore.kernels.events import NO_EVENT
from featurestore.kernels.on_demand import finish
from featurestore.online.answering.bound_service import Answers, BoundService, Overflow
from featurestore.online.answering.partial import ViewFailures, columns_of_features, columns_of_views, view_error
from featurestore.online.answering.requests import ParsedRequest, RequestParser, read_instant
from featurestore.online.answering.snapshots import SnapshotReader
from featurestore.online.answering.state_watch import LossReports, NoReports
from featurestore.online.stores.errors import STORE_EVICTS
from featurestore.online.stores.store import StateReads, ViewRecord
from featurestore.plan.model import Plan

_VIEW_ERRORS = (StateError, OutOfReachError)
"""Failures of one view; the other views can answer."""

_ENTITY_CODES = frozenset({"corrupt-state", "foreign-state", STORE_EVICTS, ValueOverflowError.default_code})
"""Codes of failures that may concern one entity alone: requests for other entities are not affected."""


class _BatchAnswer(NamedTuple):
    """The answer for the entities of one or more requests; the parts are those of ``OnlineFeatures``."""

    as_of_us: int
    rows: list[list[Any]]
    codes: bytes
    event_times: list[list[int | None]]
    views: dict[str, ViewState]
    errors: dict[str, ViewError]
    read_seconds: float
    compute_seconds: float


_Rows = list[list[Any]]


class OnlineReader:
    """Answers one feature service from an online store. Safe to use from several threads."""

    def __init__(
        self, plan: Plan, store: StateReads, clock: Clock | None = None, watch: LossReports | None = None
    ) -> None:
        """Bind the plan.

        Args:
            plan: The service.
            store: Where the states of its views are kept.
            clock: Returns the instant that requests without ``as_of`` are about.
            watch: Reports lost states that the views' records do not show.

        Raises:
            UnknownUdfError: The plan calls a function that this process does not have.
        """
        for name, source in plan.udfs:
            find_udf(name, source)
        self.plan = plan
        self._clock = clock or SystemClock()
        self._requests = RequestParser(plan)
        self._snapshots = SnapshotReader(plan.uses, store, watch or NoReports())
        self._uses = self._snapshots.uses
        self._aliases = tuple(use.alias for use in plan.uses)
        self._columns = tuple(output.name for output in plan.outputs)
        self._dtypes = tuple(output.dtype for output in plan.outputs)
        positions = {name: i for i, name in enumerate(name for use in self._uses for name in use.names)}
        self._picks = None if plan.on_demand else [positions[output.column] for output in plan.outputs]
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
            as_of: Instant asked about; ``None`` is the present one. While events are pushed, the present is the instant
                at which the push began, so that the answer does not depend on how far it has come.
            expected_fingerprint: The plan that the caller's model was trained on; another plan is an error.
            request_id: Identifier of the request; a new one if ``None``.
            partial: Whether some views may answer if others cannot: the values of the others are null with status
                ``ERROR``, and ``errors`` gives the reasons. If no view can answer, the request fails. A sum that does
                not fit affects only its own value.

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
        (answer,) = self.get_many([question])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_many(self, questions: Sequence[OnlineQuestion]) -> list[OnlineFeatures | Exception]:
        """Answer several requests as ``get`` answers each of them; the store is read once for all.

        Args:
            questions: Requests to this service, all of the same ``as_of`` and ``partial``.

        Returns:
            Per request its answer, or the error that ``get`` raises for it.
        """
        requests = [self._requests.parse(question) for question in questions]
        valid = [request for request in requests if isinstance(request, ParsedRequest)]
        answers = iter(self._answers(valid, questions[0].as_of, is_partial=questions[0].partial) if valid else ())
        return [next(answers) if isinstance(request, ParsedRequest) else request for request in requests]

    def _answers(
        self, requests: Sequence[ParsedRequest], as_of: datetime | str | None, *, is_partial: bool
    ) -> list[OnlineFeatures | Exception]:
        """Answer requests in one batch; after a failure of one entity in two halves, to find the request it is in."""
        entities = [entity for request in requests for entity in request.entities]
        inputs = [row for request in requests for row in request.inputs]
        try:
            batch = self._batch(entities, inputs, as_of, is_partial=is_partial)
        except Exception as error:  # the callers get it
            if len(requests) == 1 or not _may_concern_one_entity(error):
                return [error] * len(requests)
            is_clean = False
        else:
            is_clean = len(requests) == 1 or _ENTITY_CODES.isdisjoint(error.code for error in batch.errors.values())
        if not is_clean:
            half = len(requests) // 2
            return [
                answer
                for part in (requests[:half], requests[half:])
                for answer in self._answers(part, as_of, is_partial=is_partial)
            ]
        ends = accumulate(len(request.entities) for request in requests)
        return [self._answer_of(batch, request, end) for request, end in zip(requests, ends, strict=True)]

    def _batch(
        self,
        entities: list[dict[str, Any]],
        inputs: list[dict[str, Any]],
        as_of: datetime | str | None,
        *,
        is_partial: bool,
    ) -> _BatchAnswer:
        """Answer for some entities."""
        as_of_us = self._clock.now_us() if as_of is None else read_instant(as_of)
        failures = ViewFailures(len(self._uses) if is_partial else 0)
        began = time.perf_counter()
        snapshot, states = self._snapshots.read(entities, failures)
        was_read = time.perf_counter()
        if as_of is None and snapshot.has_pushes:
            as_of_us = min(
                record.settled_us(as_of_us, use.policy[0])
                for use, record in zip(self._uses, snapshot.records, strict=True)
            )
        if as_of_us < snapshot.reach_us:
            _check_reach(snapshot.records, as_of_us, failures)
        answers = self._evaluate(states, len(entities), as_of_us, snapshot.bounds_us, failures)
        rows, codes = self._outputs(answers, inputs, as_of_us)
        errors = {self._uses[view].alias: view_error(failure) for view, failure in failures.by_view.items()}
        failed = frozenset(errors)
        if failed:
            self._blank(columns_of_views(self.plan, failed), range(len(entities)), rows, codes)
        if answers.overflows:
            self._blank_overflows(answers.overflows, rows, codes, errors, is_partial=is_partial)
        view_states = [reach.state(as_of_us) for reach in snapshot.reaches]
        return _BatchAnswer(
            as_of_us=as_of_us,
            rows=rows,
            codes=codes.T.tobytes(),
            event_times=[[None if at == NO_EVENT else at for at in newest] for newest in answers.newest],
            views={
                alias: view_states[reach]
                for alias, reach in zip(self._aliases, snapshot.reach_of, strict=True)
                if alias not in failed
            },
            errors=errors,
            read_seconds=was_read - began,
            compute_seconds=time.perf_counter() - was_read,
        )

    def _answer_of(self, batch: _BatchAnswer, request: ParsedRequest, end: int) -> OnlineFeatures:
        """Return the answer to one request of a batch; ``end`` is one past its last entity."""
        count, width = len(request.entities), len(self._columns)
        begin = end - count
        return OnlineFeatures(
            service=self.plan.name,
            fingerprint=self.plan.fingerprint,
            request_id=request.request_id,
            as_of_us=batch.as_of_us,
            columns=self._columns,
            dtypes=self._dtypes,
            rows=batch.rows[begin:end],
            codes=batch.codes[begin * width : end * width],
            event_times=dict(zip(self._aliases, [times[begin:end] for times in batch.event_times], strict=True)),
            views=batch.views.copy(),
            entities=request.entities,
            requests=request.inputs,
            keys=self._requests.keys,
            inputs=self._requests.inputs,
            errors=batch.errors.copy(),
            effort=Effort(batch.read_seconds, batch.compute_seconds, len(self._uses) * count),
        )

    def _evaluate(
        self,
        states: list[list[bytes | None]],
        count: int,
        as_of_us: int,
        bounds_us: Ints,
        failures: ViewFailures,
    ) -> Answers:
        """Evaluate states; a partial answer leaves out those of views that fail."""
        try:
            for view in failures.by_view:
                states[view] = [None] * count
            return self._bound.answer(states, count, as_of_us=as_of_us, bounds_us=bounds_us)
        except _VIEW_ERRORS:
            if not failures.are_collected:
                raise
        for view, use in enumerate(self._uses):
            alone = BoundService([use.view])
            try:
                alone.answer([states[view]], count, as_of_us=as_of_us, bounds_us=bounds_us[view : view + 1])
            except _VIEW_ERRORS as error:
                failures.add(view, error)
        for view in failures.by_view:
            states[view] = [None] * count
        return self._bound.answer(states, count, as_of_us=as_of_us, bounds_us=bounds_us)

    def _blank(
        self, columns: Collection[str], entities: Sequence[int], rows: _Rows, codes: npt.NDArray[np.uint8]
    ) -> None:
        """Set the values of some columns to null with status ``ERROR``, for some entities."""
        for position, name in enumerate(self._columns):
            if name in columns:
                for entity in entities:
                    rows[entity][position] = None
                    codes[position, entity] = ERROR_CODE

    def _blank_overflows(
        self,
        overflows: Sequence[Overflow],
        rows: _Rows,
        codes: npt.NDArray[np.uint8],
        errors: dict[str, ViewError],
        *,
        is_partial: bool,
    ) -> None:
        """Blank the values that depend on a sum which does not fit; features that are not output count for nothing.

        Raises:
            ValueOverflowError: There is such a value, and no partial answer is wanted.
        """
        by_view: dict[int, list[Overflow]] = {}
        for overflowed in overflows:
            use = self._uses[overflowed.view]
            columns = columns_of_features(self.plan, {use.names[overflowed.feature]})
            if columns:
                by_view.setdefault(overflowed.view, []).append(overflowed)
                self._blank(columns, overflowed.entities, rows, codes)
        for view, of_view in by_view.items():
            use = self._uses[view]
            first = min(overflowed.entities[0] for overflowed in of_view)
            names = [use.names[overflowed.feature] for overflowed in of_view]
            failure = overflow(use.view.name, names, field=f"/entities/{first}")
            if not is_partial:
                raise failure
            errors.setdefault(use.alias, view_error(failure))

    def _outputs(
        self, answers: Answers, inputs: Sequence[Mapping[str, Any]], as_of_us: int
    ) -> tuple[_Rows, npt.NDArray[np.uint8]]:
        """Return the rows of the answer and their statuses; on-demand features are computed first, if there are any."""
        if self._picks is not None:
            return answers.rows, answers.statuses
        arrays: dict[str, pa.Array] = {}
        codes: dict[str, npt.NDArray[np.uint8]] = {}
        features = [
            (name, feature) for use in self._uses for name, feature in zip(use.names, use.view.features, strict=True)
        ]
        columns = list(zip(*answers.rows, strict=True)) or [()] * len(features)
        for (name, feature), values, statuses in zip(features, columns, answers.statuses, strict=True):
            arrays[name] = pa.array(values, type=feature.dtype.arrow)
            codes[name] = statuses
        request = {c.name: pa.array([row[c.name] for row in inputs], type=c.dtype.arrow) for c in self.plan.request}
        instants = pa.array([to_datetime(as_of_us)] * len(inputs), type=TIMESTAMP.arrow)
        outputs, output_codes = finish(self.plan, arrays, codes, request, instants)
        output_columns = [outputs[name].to_pylist() for name in self._columns]
        return (
            [list(row) for row in zip(*output_columns, strict=True)],
            np.array([output_codes[name] for name in self._columns], dtype=np.uint8),
        )


def _check_reach(records: Sequence[ViewRecord], as_of_us: int, failures: ViewFailures) -> None:
    """Add a failure for each view whose state does not reach back to an instant."""
    for view, record in enumerate(records):
        if as_of_us < record.reach_us:
            problem = (
                f"{format_instant(as_of_us)} is earlier than the online state of feature view '{record.view}' reaches"
            )
            hint = f"It reaches back to {format_instant(record.reach_us)}; for earlier instants build a training set."
            failures.add(view, OutOfReachError(problem, field="/as_of", hint=hint))


def _may_concern_one_entity(error: Exception) -> bool:
    """Return whether a failure may concern one entity alone, and not the store or a whole view."""
    if isinstance(error, StateError):
        return error.code in _ENTITY_CODES
    return not isinstance(error, StorageError | OutOfReachError)
