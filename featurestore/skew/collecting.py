"""Rows that an audit keeps while it goes through a log: those that differ, to explain them, and some that do not.

Where too many differ those of fewer entities are kept, chosen by a hash of their key: what begins to go wrong late is
then among them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan
from featurestore.skew.causes.requests import PREVIOUS
from featurestore.skew.sampling import BUCKETS, key_buckets
from featurestore.skew.unread import is_unread

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MOST_EXPLAINED = 200_000
"""Rows that differ and are kept for proof; where there are more, some entities' are counted but not examined."""

MOST_VALUES = 10_000_000
"""Values in these rows: of services with many features fewer rows are kept."""

_CONTROLS = 3_000
_RELATED = 6_000


@dataclass
class Collected:
    """Rows of one plan, kept.

    Attributes:
        plan: The plan that answered them.
        most: Rows that differ and are kept; ``None`` for as many as ``MOST_EXPLAINED`` and ``MOST_VALUES`` say.
        rows: The rows, piece by piece.
        differs: Per output which of them differ.
        limit: Of rows that differ those are kept whose entity's bucket lies below it.
        seen: Count of rows that differ, kept or not.
        suspects: Count of kept rows that differ.
        controls: Count of kept rows that do not.
        clean: Per output the count of all rows that do not differ, kept or not.
        different: Values that differ, kept or not.
    """

    plan: Plan
    most: int | None = None
    rows: list[pa.Table] = field(default_factory=list)
    differs: dict[str, list[Flags]] = field(default_factory=dict)
    limit: int = BUCKETS
    seen: int = 0
    suspects: int = 0
    controls: int = 0
    clean: dict[str, int] = field(default_factory=dict)
    different: int = 0

    def add(self, log: pa.Table, differs: Mapping[str, Flags]) -> Flags:
        """Keep what is worth keeping of a piece.

        Args:
            log: The piece.
            differs: Per output the rows that differ.

        Returns:
            Which rows differ and are not kept.
        """
        any_differs = np.zeros(log.num_rows, dtype=np.bool_)
        for name, flags in differs.items():
            any_differs |= flags
            self.clean[name] = self.clean.get(name, 0) + int((~flags & ~is_unread(log, name)).sum())
            self.different += int(flags.sum())
        self.seen += int(any_differs.sum())
        suspects = np.flatnonzero(any_differs & (key_buckets(self.plan, log) < self.limit))
        chosen = np.union1d(suspects, self._controls(log, any_differs, suspects))
        any_differs[suspects] = False
        if len(chosen) == 0:
            return any_differs
        self.suspects += len(suspects)
        self.controls += len(chosen) - len(suspects)
        self.rows.append(with_previous(self.plan, log, chosen))
        for name, flags in differs.items():
            self.differs.setdefault(name, []).append(flags[chosen])
        return any_differs

    def thin(self) -> tuple[pa.Table, dict[str, Flags]] | None:
        """Leave entities out until few enough rows that differ are kept.

        Returns:
            Rows that are not kept any more, and per output which of them differ; ``None`` if there are none.
        """
        most = self.most or min(MOST_EXPLAINED, MOST_VALUES // max(1, len(self.differs)))
        if self.suspects <= most:
            return None
        table, flags = self.table(), self.flags()
        differs = np.any(list(flags.values()), axis=0)
        buckets = key_buckets(self.plan, table)
        ordered = np.sort(buckets[differs])
        self.limit = int(max(ordered[most // 2], ordered[0] + 1))
        is_kept = differs & (buckets < self.limit)
        if int(is_kept.sum()) > most:  # they are one entity's
            rows = np.flatnonzero(is_kept)
            is_kept[np.setdiff1d(rows, _spread(rows, most // 2))] = False
        is_left = differs & ~is_kept
        self.rows = [table.filter(pa.array(~is_left))]
        self.differs = {name: [own[~is_left]] for name, own in flags.items()}
        self.suspects = int(is_kept.sum())
        return table.filter(pa.array(is_left)), {name: own[is_left] for name, own in flags.items()}

    @property
    def kept_share(self) -> float:
        """Share of the rows that differ which are kept."""
        return self.suspects / self.seen if self.seen else 1.0

    def _controls(self, log: pa.Table, differs: Flags, suspects: Ints) -> Ints:
        """Choose rows that do not differ: some of the same entities, some of all."""
        clean = np.flatnonzero(~differs)
        room = max(0, _CONTROLS + _RELATED - self.controls)
        if len(clean) == 0 or room == 0:
            return np.zeros(0, dtype=np.int64)
        index, codes = KeyIndex.build(_keys(self.plan, log))
        concerned = np.zeros(len(index) + 1, dtype=np.bool_)
        concerned[codes[suspects]] = True
        concerned[-1] = False
        related = clean[concerned[codes[clean]]]
        return np.union1d(_spread(related, min(_RELATED, room)), _spread(clean, min(_CONTROLS, room)))

    def table(self) -> pa.Table:
        """Return all kept rows."""
        return pa.concat_tables(self.rows)

    def flags(self) -> dict[str, Flags]:
        """Return per output which of the kept rows differ."""
        return {name: np.concatenate(parts) for name, parts in self.differs.items()}


def with_previous(plan: Plan, log: pa.Table, rows: Ints) -> pa.Table:
    """Return some rows of a piece, each with the request inputs of its entity's row before it, null if it has none."""
    places = pa.array(rows)
    chosen = log.take(places)
    if not plan.request:
        return chosen
    _, codes = KeyIndex.build(_keys(plan, log))
    as_of = log.column("as_of").combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    order = np.lexsort([np.arange(len(codes)), as_of, codes])
    before = np.full(len(codes), -1, dtype=np.int64)
    same = codes[order[1:]] == codes[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    own = pa.array(before[rows], mask=before[rows] < 0)
    for column in plan.request:
        earlier = log.column(f"request__{column.name}").combine_chunks().take(own)
        chosen = chosen.append_column(f"{PREVIOUS}{column.name}", earlier)
    return chosen


def _keys(plan: Plan, log: pa.Table) -> Sequence[pa.Array]:
    return [log.column(f"key__{column.name}").combine_chunks() for column in plan.join_keys]


def _spread(rows: Ints, most: int) -> Ints:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)] if most else rows[:0]
