"""What of a case is explained so far, by which assumptions, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featurestore.core.columns import Flags, Ints
from featurestore.guard.causes.model import Assumption, Case
from featurestore.guard.causes.scoring import surprises
from featurestore.guard.causes.trials import Trial, count_of, explained_by, light_rows, spread_rows
from featurestore.guard.world.events import loose

SEARCHED_SHARE = 0.1
"""Share of a sample that a search for single events must explain to be worth another one."""

_SAMPLED_PER_OUTPUT = 120
_SAMPLED_ROWS = 800
_SAMPLED_FOR_PAIRS = 60
_MOST_CONTROLS = 400
_MOST_SAMPLED_EVENTS = 100_000
"""Events of the rows of a sample to explain, and of its rows that hold."""


@dataclass(frozen=True)
class Proof:
    """What explains the values of a case.

    Attributes:
        assumptions: The assumptions that explain any, in the order in which they were named.
        owner: Per output and row the assumption that explains the value; -1 for none.
        is_thorough: Whether everything was tried, not only what explains other rows.
    """

    assumptions: tuple[Assumption, ...]
    owner: Mapping[str, Ints]
    is_thorough: bool = True

    def unexplained(self, case: Case) -> dict[str, Flags]:
        """Return per output the differing rows that nothing explains."""
        return {name: flags & (self.owner[name] < 0) for name, flags in case.differs.items()}


class Explanation:
    """The explanation of a case, while it grows.

    Attributes:
        case: The case; values that are explained are taken out of its ``differs``.
        assumptions: The assumptions named so far.
    """

    def __init__(
        self, case: Case, assumptions: Sequence[Assumption], progress: Callable[[int, int], None] | None
    ) -> None:
        """Begin with nothing explained.

        Args:
            case: What is to be explained; it is not changed.
            assumptions: Assumptions that explain other rows of the same log.
            progress: Receives the number of values explained and that of all values to explain.
        """
        differs = {name: flags.copy() for name, flags in case.differs.items()}
        self.case = replace(case, differs=differs, bits=surprises(case))
        self.assumptions = list(assumptions)
        self.value_count = count_of(case.differs.values())
        self._owner = {name: np.full(len(case.world), -1, dtype=np.int64) for name in case.differs}
        self._progress = progress

    @property
    def left(self) -> int:
        """Count of values that nothing explains yet."""
        return count_of(self.case.differs.values())

    def proof(self, *, is_thorough: bool) -> Proof:
        """Return what explains the case."""
        return Proof(tuple(self.assumptions), self._owner, is_thorough)

    def sample(self) -> Case:
        """Choose some rows to explain of every output, spread over the case, and some that hold."""
        return self._sampled(_SAMPLED_PER_OUTPUT, _SAMPLED_ROWS)

    def sample_for_pairs(self) -> Case:
        """Choose fewer rows, since there are many pairs of assumptions to try on them."""
        return self._sampled(_SAMPLED_FOR_PAIRS // 4, _SAMPLED_FOR_PAIRS)

    def _sampled(self, per_output: int, most: int) -> Case:
        chosen = [spread_rows(np.flatnonzero(self.case.differs[name]), per_output) for name in self.case.outputs]
        rows = spread_rows(np.unique(np.concatenate(chosen)), most)
        rows = light_rows(self.case.world, rows, _MOST_SAMPLED_EVENTS)
        return self.with_controls(rows)

    def with_controls(self, rows: Ints) -> Case:
        """Return a case of some rows and of some that hold."""
        controls = spread_rows(np.flatnonzero(~self.case.suspects()), _MOST_CONTROLS)
        controls = light_rows(self.case.world, controls, _MOST_SAMPLED_EVENTS)
        return self.case.take(np.concatenate([rows, controls])).narrowed()

    def most_frequent(self, count: int) -> list[Assumption]:
        """Return the assumptions that explain the most values."""
        values = [sum(int((owner == i).sum()) for owner in self._owner.values()) for i in range(len(self.assumptions))]
        ranked = sorted(range(len(values)), key=lambda i: -values[i])
        return [self.assumptions[i] for i in ranked[:count]]

    def confirm(self, chosen: Sequence[tuple[Trial, tuple[str, ...]]]) -> int:
        """Try chosen assumptions on all rows that are not explained yet; return the count of values explained."""
        count = 0
        for trial, outputs in chosen:
            wanted = [name for name in outputs if name in trial.explained and bool(self.case.differs[name].any())]
            if wanted:
                rows = self._concerned(trial.assumption, np.any([self.case.differs[name] for name in wanted], axis=0))
                part = self.case.take(rows)
                part = part.narrowed() if trial.assumption.is_searched else part
                count += self._assign(trial.assumption, rows, explained_by(trial.assumption, part, wanted))
        return count

    def apply_known(self) -> None:
        """Try the assumptions that explain other rows of the log on all rows, without searching for more events."""
        for assumption in tuple(self.assumptions):
            rows = np.flatnonzero(self.case.suspects())
            if len(rows) and assumption.is_proven and not assumption.is_searched:
                self._assign(assumption, rows, explained_by(assumption, self.case.take(rows), self.case.outputs))

    def _concerned(self, assumption: Assumption, differs: Flags) -> Ints:
        """Return those of some rows that an assumption may explain: of single events those of their entities."""
        if not assumption.is_searched:
            return np.flatnonzero(differs)
        is_concerned = np.zeros(len(differs), dtype=np.bool_)
        for alias, numbers in assumption.events.items():
            view = self.case.world.views[alias]
            index, codes = view.events.loose_index
            has_any = np.zeros(len(index) + 1, dtype=np.bool_)
            has_any[codes[view.events.rows_of(numbers)]] = True
            has_any[-1] = False
            is_concerned |= has_any[index.codes([loose(key) for key in view.keys])]
        return np.flatnonzero(differs & is_concerned)

    def _assign(self, assumption: Assumption, rows: Ints, explained: Mapping[str, Flags]) -> int:
        """Note that an assumption explains values of some rows; return their count."""
        count = count_of(explained.values())
        if count == 0:
            return 0
        number = next((i for i, known in enumerate(self.assumptions) if known is assumption), len(self.assumptions))
        if number == len(self.assumptions):
            self.assumptions.append(assumption)
        for name, flags in explained.items():
            self._owner[name][rows[flags]] = number
            self.case.differs[name][rows[flags]] = False
        if self._progress is not None:
            self._progress(self.value_count - self.left, self.value_count)
        return count
