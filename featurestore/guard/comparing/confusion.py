"""Pairs of values that were confused, where values are not numbers; and insertions into lists and deletions. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

_MOST_PAIRS = 2_000
"""Distinct pairs that are kept while counting; when there are more, the rarer half is only counted."""

_SHOWN_PAIRS = 10
"""Pairs that a report shows."""

_LONGEST_TEXT = 80


@dataclass(frozen=True)
class Confusion:
    """How often one value was served in place of another.

    Attributes:
        reference: The value of the training set, as text.
        current: The value that was served, as text.
        rows: Count of rows.
    """

    reference: str
    current: str
    rows: int


@dataclass(frozen=True)
class ListEdits:
    """The fewest edits that turn the lists of the training set into those that were served.

    Attributes:
        lists: Lists that differ.
        inserted: Items that only serving has.
        deleted: Items that only the training set has.
        largest_distance: Most edits that any list needs.
    """

    lists: int
    inserted: int
    deleted: int
    largest_distance: int


@dataclass
class ConfusionTally:
    """Pairs of values that differ, counted; tallies of two pieces can be added."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    others: int = 0

    def count(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Count pairs of (reference, current)."""
        self.pairs.update((_text(left), _text(right)) for left, right in pairs)
        self._shrink()

    def add(self, other: ConfusionTally) -> None:
        """Count what another tally counted."""
        self.pairs.update(other.pairs)
        self.others += other.others
        self._shrink()

    def summary(self) -> tuple[Confusion, ...]:
        """Return the most frequent pairs, most frequent first, equally frequent ones by text."""
        ranked = sorted(self.pairs.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Confusion(left, right, rows) for (left, right), rows in ranked[:_SHOWN_PAIRS])

    def _shrink(self) -> None:
        if len(self.pairs) > _MOST_PAIRS:
            ranked = sorted(self.pairs.items(), key=lambda item: (-item[1], item[0]))
            self.others += sum(rows for _, rows in ranked[_MOST_PAIRS // 2 :])
            self.pairs = Counter(dict(ranked[: _MOST_PAIRS // 2]))


@dataclass
class ListTally:
    """Edits of lists, counted; tallies of two pieces can be added."""

    lists: int = 0
    inserted: int = 0
    deleted: int = 0
    largest_distance: int = 0

    def count(self, pairs: Iterable[tuple[Sequence[Any], Sequence[Any]]]) -> None:
        """Count the edits of pairs of (reference, current)."""
        for reference, current in pairs:
            kept = common_length(reference, current)
            inserted, deleted = len(current) - kept, len(reference) - kept
            self.lists += 1
            self.inserted += inserted
            self.deleted += deleted
            self.largest_distance = max(self.largest_distance, inserted + deleted)

    def add(self, other: ListTally) -> None:
        """Count what another tally counted."""
        self.lists += other.lists
        self.inserted += other.inserted
        self.deleted += other.deleted
        self.largest_distance = max(self.largest_distance, other.largest_distance)

    def summary(self) -> ListEdits | None:
        """Return the counts, ``None`` if no list differs."""
        if self.lists == 0:
            return None
        return ListEdits(self.lists, self.inserted, self.deleted, self.largest_distance)


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the longest common subsequence: the items that neither insertion nor deletion touches.

    Example:
        >>> common_length([1, 2, 3, 4], [2, 4, 5])
        2
    """
    row = [0] * (len(right) + 1)
    for item in left:
        before = 0
        for place, other in enumerate(right, start=1):
            above = row[place]
            row[place] = before + 1 if item == other else max(above, row[place - 1])
            before = above
    return row[-1]


def _text(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
