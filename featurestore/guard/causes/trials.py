"""Trials: an assumption is applied to rows, and what the kernels then answer is compared with what was served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.core.statuses import NOT_FOUND
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.world.world import (
    Transform,
    Values,
    World,
    answer,
)

_FEWEST_LIGHT_ROWS = 60
"""Rows that ``light_rows`` takes whatever the count of their events."""


@dataclass(frozen=True)
class Trial:
    """An assumption and what it makes of a sample.

    Attributes:
        hypothesis: The hypothesis that proposed it.
        assumption: The assumption.
        explained: Per output the rows it explains.
        spoiled_shares: Per output the share of holding values it would spoil.
    """

    hypothesis: Hypothesis
    assumption: Assumption
    explained: Mapping[str, Flags]
    spoiled_shares: Mapping[str, float]

    @property
    def row_bits(self) -> float:
        """Cost of saying, row by row, what was changed."""
        return self.hypothesis.row_bits + self.assumption.row_bits

    def explains_all(self, outputs: Iterable[str], sample: Case) -> bool:
        """Return whether it explains every value of some outputs in a sample."""
        differing = [name for name in outputs if bool(sample.differs[name].any())]
        return all(
            name in self.explained and not bool((sample.differs[name] & ~self.explained[name]).any())
            for name in differing
        )


def try_on(hypothesis: Hypothesis, assumption: Assumption, sample: Case) -> Trial | None:
    """Apply an assumption to the rows to explain, and only if it explains any to those that hold.

    Returns:
        The trial; ``None`` if the assumption explains no value, or nothing but entities that were not found where its
        hypothesis is not about these.
    """
    outputs = [name for name in sample.differs if assumption.outputs is None or name in assumption.outputs]
    rows = np.flatnonzero(sample.suspects())
    part = sample.take(rows)
    explained_in_part = explained_by(assumption, part, outputs)
    if count_of(explained_in_part.values()) == 0:
        return None
    if not hypothesis.explains_absence and _is_absence(part, explained_in_part):
        return None
    explained = {name: np.zeros(len(sample.world), dtype=np.bool_) for name in explained_in_part}
    for name, flags in explained_in_part.items():
        explained[name][rows] = flags
    return Trial(hypothesis, assumption, explained, _spoiled_shares(assumption, sample, list(explained)))


def _is_absence(case: Case, explained: Mapping[str, Flags]) -> bool:
    """Return whether all explained values say that the entity was not found: then a finer reason has no support."""
    return all(bool((case.served[name].statuses[flags] == NOT_FOUND).all()) for name, flags in explained.items())


def explained_by(assumption: Assumption, case: Case, outputs: Iterable[str]) -> dict[str, Flags]:
    """Return per output the differing rows that come out as served under an assumption."""
    answers = answers_under(assumption, case, list(outputs))
    return {name: same_as_served(case, name, values) & case.differs[name] for name, values in answers.items()}


def answers_under(assumption: Assumption, case: Case, outputs: Sequence[str]) -> dict[str, Values]:
    """Return the answers to a case's rows under an assumption; none if it cannot be evaluated."""
    if len(case.world) == 0:
        return {}
    try:
        world = assumption.apply(case.world)
        if world is None:
            return {}
        if _only_transforms(case.world, world):
            added = world.transforms[len(case.world.transforms) :]
            return {name: _transformed(world, name, case.reference[name], added) for name in outputs}
        return answer(world, outputs, threads=case.facts.threads)
    except (FeatureStoreError, pa.ArrowException):
        return {}


def _only_transforms(world: World, changed: World) -> bool:
    """Return whether a change concerns only computed values: then they need not be computed again."""
    parts = ("plan", "log", "as_of", "views", "requests", "fills")
    count = len(world.transforms)
    return changed.transforms[:count] == world.transforms and all(
        getattr(changed, part) is getattr(world, part) for part in parts
    )


def _transformed(world: World, name: str, values: Values, transforms: Iterable[Transform]) -> Values:
    for transform in transforms:
        values = transform(world, name, values)
    return values


def same_as_served(case: Case, name: str, values: Values) -> Flags:
    """Return per row whether values of an output are those that were served."""
    served = case.served[name]
    if values.values.type != served.values.type:
        return np.zeros(len(case.world), dtype=np.bool_)
    return agrees(values.values, served.values, values.statuses, served.statuses, case.dtype(name))


def _spoiled_shares(assumption: Assumption, sample: Case, outputs: Sequence[str]) -> dict[str, float]:
    """Return per output the share of holding values that an assumption would spoil."""
    answers = answers_under(assumption, sample, outputs)
    shares = {}
    for name in outputs:
        holds = sample.holds[name]
        count = int(holds.sum())
        spoiled = int((holds & ~same_as_served(sample, name, answers[name])).sum()) if name in answers else count
        shares[name] = spoiled / count if count else 0.0
    return shares


def light_rows(world: World, rows: Ints, most_events: int) -> Ints:
    """Choose, among some rows, those of entities with few events, as many as ``most_events`` allow; always the same."""
    event_counts = np.zeros(len(rows), dtype=np.int64)
    entity = np.zeros(len(rows), dtype=np.int64)
    for view in world.views.values():
        block, codes = view.entities()
        row_codes = codes[rows]
        if len(block.offsets) > 1:
            event_counts += np.where(row_codes >= 0, np.diff(block.offsets)[np.maximum(row_codes, 0)], 0)
        entity = np.unique(np.column_stack([entity, row_codes]), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(event_counts, kind="stable")
    _, first = np.unique(entity[order], return_index=True)
    added = np.zeros(len(rows), dtype=np.int64)
    added[first] = event_counts[order][first]
    count = max(_FEWEST_LIGHT_ROWS, int(np.searchsorted(np.cumsum(added), most_events, side="right")))
    return np.sort(rows[order[:count]])


def spread_rows(rows: Ints, most: int) -> Ints:
    """Choose at most ``most`` of some rows, evenly spread; always the same."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def count_of(flags_of_outputs: Iterable[Flags]) -> int:
    """Return how many flags are set, of all outputs together."""
    return sum(int(flags.sum()) for flags in flags_of_outputs)
