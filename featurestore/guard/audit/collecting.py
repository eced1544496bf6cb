"""Rows that an audit keeps while it goes through a log: those that differ, to explain them, and some that do not.

As many as fit lie in memory: of few entities if need be, chosen by a hash of their key, so that what begins to go wrong
late is among them, too. They are explained first. The rows of all others lie on disk meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.guard.audit.spilled import Spilled
from featurestore.guard.causes.hypotheses.stale_request_input import PREVIOUS
from featurestore.guard.comparing.compare import is_unread
from featurestore.guard.comparing.sampling import BUCKETS, key_buckets
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import key_column, request_column

MOST_ROWS = 200_000
"""Rows that differ and lie in memory at a time."""

MOST_VALUES = 10_000_000
"""Values in these rows: of services with many features fewer rows are kept."""

_CONTROLS = 3_000
_RELATED = 6_000


@dataclass(frozen=True)
class Round:
    """Rows that are explained at a time.

    Attributes:
        log: The rows.
        differs: Per output which of them differ.
        share: Their share of all rows that differ.
    """

    log: pa.Table
    differs: Mapping[str, Flags]
    share: float


@dataclass
class Collected:
    """Rows of one plan, kept.

    Attributes:
        plan: The plan that answered them.
        most: Count of rows that differ which are to be explained; ``None`` for all.
        seen: Count of rows that differ.
        different: Values that differ.
        clean: Per output the count of all rows that do not differ, kept or not.
        suspects: Count of the rows in memory that differ.
        controls: Count of the rows in memory that do not.
        limit: In memory lie rows of entities whose bucket is below it.
    """

    plan: Plan
    most: int | None = None
    seen: int = 0
    different: int = 0
    clean: dict[str, int] = field(default_factory=dict)
    suspects: int = 0
    controls: int = 0
    limit: int = BUCKETS
    _rows: list[pa.Table] = field(default_factory=list)
    _differs: dict[str, list[Flags]] = field(default_factory=dict)
    _spilled: Spilled | None = None
    _width: int = 0
    _done: int = 0

    def add(self, log: pa.Table, differs: Mapping[str, Flags]) -> None:
        """Keep what is worth keeping of a piece: every row that differs, and some that do not.

        Args:
            log: The piece.
            differs: Per output the rows that differ.

        Raises:
            StorageError: Rows do not fit into memory, and not on the disk.
        """
        for name, flags in differs.items():
            self.clean[name] = self.clean.get(name, 0) + int((~flags & ~is_unread(log, name)).sum())
            self.different += int(flags.sum())
        any_differs = _any(differs, log.num_rows)
        chosen = np.union1d(np.flatnonzero(any_differs), self._chosen_controls(log, any_differs))
        if len(chosen):
            self.put(with_previous(self.plan, log, chosen), {name: flags[chosen] for name, flags in differs.items()})

    def put(self, rows: pa.Table, differs: Mapping[str, Flags]) -> None:
        """Keep rows that were chosen already.

        Args:
            rows: The rows, with the request inputs before theirs.
            differs: Per output which of them differ.

        Raises:
            StorageError: They do not fit into memory, and not on the disk.
        """
        self._width = len(differs)
        self.seen += int(_any(differs, rows.num_rows).sum())
        self._keep(rows, differs)
        if self.suspects > self._most_kept:
            self._thin()

    def rounds(self) -> Iterator[Round]:
        """Yield the rows to explain, those in memory first, then those of all other entities; once."""
        if self.suspects:
            log, differs = self._taken()
            yield self._round(log, differs)
            del log, differs
        while self._spilled is not None and (room := self._room()):
            taken = self._spilled.take(room)
            if taken is None:
                break
            yield self._round(*taken)

    def rest(self) -> Iterator[tuple[pa.Table, dict[str, Flags]]]:
        """Yield the rows that were in no round, and per output which of them differ."""
        while self._spilled is not None and (taken := self._spilled.take(self._most_kept)) is not None:
            yield taken

    def close(self) -> None:
        """Give back what lies on disk."""
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None

    @property
    def has_controls(self) -> bool:
        """Whether there are as many rows that do not differ as are wanted."""
        return self.controls >= _CONTROLS + _RELATED

    @property
    def to_explain(self) -> int:
        """Count of the values that are to be explained; an estimate where not all are."""
        share = 1.0 if self.most is None else min(1.0, self.most / max(1, self.seen))
        return int(self.different * share)

    @property
    def _most_kept(self) -> int:
        fitting = min(MOST_ROWS, MOST_VALUES // max(1, self._width))
        return fitting if self.most is None else min(fitting, self.most)

    def _room(self) -> int:
        """Return how many rows that differ may be in the next round."""
        return self._most_kept if self.most is None else min(self._most_kept, self.most - self._done)

    def _round(self, log: pa.Table, differs: Mapping[str, Flags]) -> Round:
        count = int(_any(differs, log.num_rows).sum())
        self._done += count
        return Round(log, differs, count / self.seen)

    def _keep(self, table: pa.Table, flags: Mapping[str, Flags]) -> None:
        """Keep rows in memory, or on disk if their entities lie there."""
        buckets = key_buckets(self.plan, table) if self.limit < BUCKETS else np.zeros(table.num_rows, dtype=np.int64)
        inside = buckets < self.limit
        differs = _any(flags, table.num_rows)
        self.suspects += int((differs & inside).sum())
        self.controls += int((~differs & inside).sum())
        self._rows.append(table.filter(pa.array(inside)))
        for name, own in flags.items():
            self._differs.setdefault(name, []).append(own[inside])
        self._spill(table, buckets, flags, ~inside)

    def _spill(self, table: pa.Table, buckets: Ints, flags: Mapping[str, Flags], is_left: Flags) -> None:
        if not bool(is_left.any()):
            return
        if self._spilled is None:
            self._spilled = Spilled()
        left = table.filter(pa.array(is_left))
        self._spilled.add(left, buckets[is_left], {name: own[is_left] for name, own in flags.items()})

    def _thin(self) -> None:
        """Leave fewer entities in memory."""
        most = self._most_kept
        table, flags = self._taken()
        differs, buckets = _any(flags, table.num_rows), key_buckets(self.plan, table)
        ordered = np.sort(buckets[differs])
        self.limit = int(max(ordered[most // 2], ordered[0] + 1))
        inside = buckets < self.limit
        if int((differs & inside).sum()) > most:  # they are one entity's
            rows = np.flatnonzero(differs & inside)
            inside[np.setdiff1d(rows, _spread(rows, most // 2))] = False
        self._rows = [table.filter(pa.array(inside))]
        self._differs = {name: [own[inside]] for name, own in flags.items()}
        self.suspects = int((differs & inside).sum())
        self.controls = int((~differs & inside).sum())
        self._spill(table, buckets, flags, ~inside)

    def _taken(self) -> tuple[pa.Table, dict[str, Flags]]:
        """Take the rows out of memory."""
        table = pa.concat_tables(self._rows)
        flags = {name: np.concatenate(parts) for name, parts in self._differs.items()}
        self._rows, self._differs = [], {}
        return table, flags

    def _chosen_controls(self, log: pa.Table, differs: Flags) -> Ints:
        """Choose rows that do not differ: some of the same entities, some of all."""
        clean = np.flatnonzero(~differs)
        room = max(0, _CONTROLS + _RELATED - self.controls)
        if len(clean) == 0 or room == 0:
            return np.zeros(0, dtype=np.int64)
        index, codes = KeyIndex.build(_keys(self.plan, log))
        concerned = np.zeros(len(index) + 1, dtype=np.bool_)
        concerned[codes[differs]] = True
        concerned[-1] = False
        related = clean[concerned[codes[clean]]]
        return np.union1d(_spread(related, min(_RELATED, room)), _spread(clean, min(_CONTROLS, room)))


def _any(differs: Mapping[str, Flags], rows: int) -> Flags:
    found = np.zeros(rows, dtype=np.bool_)
    for flags in differs.values():
        found |= flags
    return found


def with_previous(plan: Plan, log: pa.Table, rows: Ints) -> pa.Table:
    """Return some rows of a piece, each with the request inputs of its entity's row before it, null if it has none."""
    places = pa.array(rows)
    chosen = log.take(places)
    if not plan.request:
        return chosen
    _, codes = KeyIndex.build(_keys(plan, log))
    as_of = log.column(AS_OF).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    order = np.lexsort([np.arange(len(codes)), as_of, codes])
    before = np.full(len(codes), -1, dtype=np.int64)
    same = codes[order[1:]] == codes[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    own = pa.array(before[rows], mask=before[rows] < 0)
    for column in plan.request:
        earlier = log.column(request_column(column.name)).combine_chunks().take(own)
        chosen = chosen.append_column(f"{PREVIOUS}{column.name}", earlier)
    return chosen


def _keys(plan: Plan, log: pa.Table) -> Sequence[pa.Array]:
    return [log.column(key_column(column.name)).combine_chunks() for column in plan.join_keys]


def _spread(rows: Ints, most: int) -> Ints:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)] if most else rows[:0]
