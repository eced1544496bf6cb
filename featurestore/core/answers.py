"""Answers of the online road: to questions, and to pushes.

Clients of a server get the same objects, so the module loads nothing that computes: Arrow and pandas only in the
conversions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.core.frames import to_frame
from featurestore.core.statuses import names_of
from featurestore.core.temporal import format_instant

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featurestore.core.dtypes import DType


class ViewState(NamedTuple):
    """How complete one view's state was when it answered.

    Attributes:
        watermark_us: Every event with ``ingest_time < watermark_us`` was used where the question allowed it.
        complete_until_us: The answer is what a training set gives for every ``as_of`` up to here.
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
        problem: What is wrong, and what helps.
    """

    code: str
    problem: str


class Effort(NamedTuple):
    """What an answer cost.

    Attributes:
        read_seconds: How long the store was waited for.
        compute_seconds: How long stored states were evaluated.
        keys: Count of states that were read.
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
        request_id: Name of this request.
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
        """Return the same as a pandas frame, in the dtypes of a training set's."""
        return to_frame(self.to_arrow())

    def __repr__(self) -> str:
        at = format_instant(self.as_of_us)
        return f"<OnlineFeatures {self.service} at {at}: {len(self.rows)} rows × {len(self.columns)} features>"


@dataclass(frozen=True)
class RejectedRow:
    """A pushed row that was not taken.

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
    """What became of a push.

    Attributes:
        source: Name of the source.
        accepted: Events that are committed to the log.
        duplicates: Events whose id was known, or came twice; they change nothing.
        sequence: Number of the last event in the source's log, -1 if it has none.
        ingest_time_us: Every event of the push became known before this instant.
        is_followed: Whether online state has the events already. If not, for instance because the online store is
            down, it catches up from the log.
        rejected: The rows that were not taken, if the caller wanted the good ones.
    """

    source: str
    accepted: int
    duplicates: int
    sequence: int
    ingest_time_us: int
    is_followed: bool
    rejected: tuple[RejectedRow, ...] = ()
