"""Online requests, and the answers to them and to pushes.

Clients of a server get the same objects, so the module must load quickly: Arrow and pandas are imported by the
conversions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.core.frames import to_frame
from featurestore.core.statuses import names_of
from featurestore.core.temporal import format_instant

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    import pyarrow as pa

    from featurestore.core.dtypes import DType


class OnlineQuestion(NamedTuple):
    """A request for the features of some entities, with the arguments of ``FeatureStore.get_online_features``.

    Attributes:
        service: Name of the service.
        entities: One mapping from key column to value per row of the answer.
        request: Request inputs: one mapping for all entities, or one per entity.
        as_of: Instant asked about; ``None`` is the present.
        expected_fingerprint: The plan that the caller was trained on. That plan answers, live or not, if its states
            exist; otherwise the request fails.
        request_id: Id of the request; ``None`` makes a new one.
        partial: Whether views may answer if others cannot.
        model: Name of the model that sends the request, for the serving log.
        model_version: Version of that model.
        takes_live_plan: Whether the live plan may answer if the expected one cannot.
    """

    service: str
    entities: Sequence[Mapping[str, Any]]
    request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    as_of: datetime | str | None = None
    expected_fingerprint: str | None = None
    request_id: str | None = None
    partial: bool = False
    model: str | None = None
    model_version: str | None = None
    takes_live_plan: bool = False


class ViewState(NamedTuple):
    """How complete the state of a view was when it answered.

    Attributes:
        watermark_us: Every event with ``ingest_time < watermark_us`` was used where the question allowed it.
        complete_until_us: For every ``as_of`` up to this instant the answer equals that of a training set.
        is_stale: Whether the watermark lies behind what the view's refresh promises at ``as_of``.
        horizon_us: Exclusive bound of the event times that were used.
    """

    watermark_us: int
    complete_until_us: int
    is_stale: bool
    horizon_us: int


@dataclass(frozen=True)
class ViewError:
    """Why a view could not answer.

    Attributes:
        code: Stable name of the failure.
        problem: What is wrong, and how to mend it.
    """

    code: str
    problem: str


class Effort(NamedTuple):
    """What an answer cost.

    Attributes:
        read_seconds: Time spent waiting for the store.
        compute_seconds: Time spent evaluating stored states.
        keys: Number of states that were read.
    """

    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    keys: int = 0


@dataclass(frozen=True)
class OnlineFeatures:
    """Features of some entities, in the order of the request.

    Attributes:
        service: Name of the feature service.
        fingerprint: Fingerprint of its plan.
        request_id: Id of the request.
        as_of_us: Instant asked about.
        columns: Names of the features.
        dtypes: Their dtypes.
        rows: Per entity one Python value per column; ``None`` is null.
        codes: ``Status`` codes, a byte each, in the order of ``rows``; ``ERROR_CODE`` where a view could not answer.
        event_times: Per view the event time of the newest event each entity's answer saw, ``None`` if none.
        views: Per view how complete its state was; not those that could not answer.
        entities: The entity rows asked about, as read.
        requests: The request inputs of each entity, as read.
        keys: Dtypes of the entities' fields by name.
        inputs: Dtypes of the request inputs by name.
        errors: Views that could not answer, if a partial answer was asked for.
        effort: What it cost.
    """

    service: str
    fingerprint: str
    request_id: str
    as_of_us: int
    columns: tuple[str, ...]
    dtypes: tuple[DType, ...]
    rows: list[list[Any]]
    codes: bytes
    event_times: dict[str, list[int | None]]
    views: dict[str, ViewState]
    entities: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    keys: Mapping[str, DType]
    inputs: Mapping[str, DType]
    errors: Mapping[str, ViewError] = field(default_factory=dict)
    effort: Effort = field(default=Effort(), compare=False, repr=False)

    @cached_property
    def statuses(self) -> list[list[str]]:
        """Per entity one ``Status`` name per column; ``ERROR`` where a view could not answer."""
        return [list(self.statuses_of(row)) for row in range(len(self.rows))]

    def statuses_of(self, row: int) -> tuple[str, ...]:
        """Return one ``Status`` name per column for one entity."""
        width = len(self.columns)
        return names_of(self.codes[row * width : (row + 1) * width])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return per entity its keys and features by name."""
        return [
            {**entity, **dict(zip(self.columns, row, strict=True))}
            for entity, row in zip(self.entities, self.rows, strict=True)
        ]

    def to_arrow(self) -> pa.Table:
        """Return the features as a table, one row per entity, in the dtypes of a training set."""
        import pyarrow as pa

        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        arrays = [pa.array(values, type=dtype.arrow) for values, dtype in zip(columns, self.dtypes, strict=True)]
        return pa.table(dict(zip(self.columns, arrays, strict=True)))

    def to_pandas(self) -> pd.DataFrame:
        """Return the features as a pandas frame, in the dtypes of a training set."""
        return to_frame(self.to_arrow())

    def __repr__(self) -> str:
        at = format_instant(self.as_of_us)
        return f"<OnlineFeatures {self.service} at {at}: {len(self.rows)} rows × {len(self.columns)} features>"


@dataclass(frozen=True)
class RejectedRow:
    """A pushed row that was rejected.

    Attributes:
        row: Its number in the push, from 0.
        field: The field that is wrong; empty if the row itself is.
        problem: What is wrong.
    """

    row: int
    field: str
    problem: str


@dataclass(frozen=True)
class PushResult:
    """The result of a push.

    Attributes:
        source: Name of the source.
        accepted: Number of events that were committed to the log.
        duplicates: Number of events whose id was known or came twice; they change nothing.
        sequence: Number of the last event in the source's log, -1 if it has none.
        ingest_time_us: Every event of the push became known before this instant.
        is_followed: Whether online state includes the events already. If not, for instance because the online store is
            down, it catches up from the log.
        rejected: The rows that were rejected, if the caller asked for the good ones to be accepted.
    """

    source: str
    accepted: int
    duplicates: int
    sequence: int
    ingest_time_us: int
    is_followed: bool
    rejected: tuple[RejectedRow, ...] = ()
