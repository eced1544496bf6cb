"""Trials: an assumption is applied to rows, and what the kernels then answer is compared with what was served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags
from featurestore.core.errors import FeatureStoreError
from featurestore.core.statuses import NOT_FOUND
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.comparing.compare import agrees
from featurestore.guard.world.world import (
    Transform,
    Values,
    World,
    answer,
)


@dataclass(frozen=True)
class Tried:
    """An assumption and what it makes of a sample.

    Attributes:
        variant: The assumption.
        row_bits: What it costs to say it row by row.
        most_bits: Most bits that it costs to say in which rows it holds.
        covered: Per output the rows it explains.
        broken: Per output the share of holding values it would spoil.
    """

    variant: Variant
    row_bits: float
    most_bits: float
    covered: Mapping[str, Flags]
    broken: Mapping[str, float]


def try_on(hypothesis: Hypothesis, variant: Variant, sample: Case) -> Tried | None:
    """Apply an assumption to the rows to explain, and only if it explains any to those that hold."""
    outputs = [name for name in sample.differs if variant.outputs is None or name in variant.outputs]
    rows = np.flatnonzero(sample.suspects())
    part = sample.take(rows)
    found = covered_by(variant, part, outputs)
    if not any(bool(flags.any()) for flags in found.values()):
        return None
    if not hypothesis.explains_absence and _is_absence(part, found):
        return None
    covered = {name: np.zeros(len(sample.world), dtype=np.bool_) for name in found}
    for name, flags in found.items():
        covered[name][rows] = flags
    broken = _broken(variant, sample, list(covered))
    return Tried(variant, hypothesis.row_bits + variant.row_bits, hypothesis.most_bits, covered, broken)


def _is_absence(case: Case, covered: Mapping[str, Flags]) -> bool:
    """Tell whether all that is explained is that entities were not found: then nothing speaks for a finer reason."""
    return all(bool((case.served[name].statuses[flags] == NOT_FOUND).all()) for name, flags in covered.items())


def answers_under(variant: Variant, case: Case, outputs: Sequence[str]) -> dict[str, Values]:
    """Return what a case's rows are answered under an assumption; nothing if it cannot be asked."""
    if len(case.world) == 0:
        return {}
    try:
        world = variant.apply(case.world)
        if world is None:
            return {}
        if _only_transforms(case.world, world):
            added = world.transforms[len(case.world.transforms) :]
            return {name: _transformed(world, name, case.reference[name], added) for name in outputs}
        return answer(world, outputs, threads=case.facts.threads)
    except (FeatureStoreError, pa.ArrowException):
        return {}


def _only_transforms(world: World, changed: World) -> bool:
    """Tell whether all that was changed is what is done to values: then nothing need be computed again."""
    parts = ("plan", "log", "as_of", "views", "requests", "fills")
    count = len(world.transforms)
    return changed.transforms[:count] == world.transforms and all(
        getattr(changed, part) is getattr(world, part) for part in parts
    )


def _transformed(world: World, name: str, found: Values, transforms: Iterable[Transform]) -> Values:
    for transform in transforms:
        found = transform(world, name, found)
    return found


def same_as_served(case: Case, name: str, found: Values) -> Flags:
    """Tell per row whether what was found is what was served."""
    served = case.served[name]
    if found.values.type != served.values.type:
        return np.zeros(len(case.world), dtype=np.bool_)
    dtype = next(output.dtype for output in case.world.plan.outputs if output.name == name)
    return agrees(found.values, served.values, found.statuses, served.statuses, dtype)


def covered_by(variant: Variant, case: Case, outputs: Iterable[str]) -> dict[str, Flags]:
    """Return per output the differing rows that come out under an assumption."""
    found = answers_under(variant, case, list(outputs))
    return {name: same_as_served(case, name, values) & case.differs[name] for name, values in found.items()}


def _broken(variant: Variant, sample: Case, outputs: Sequence[str]) -> dict[str, float]:
    """Return per output the share of holding values that an assumption would spoil."""
    found = answers_under(variant, sample, outputs)
    shares = {}
    for name in outputs:
        holds = sample.holds[name]
        count = int(holds.sum())
        spoiled = int((holds & ~same_as_served(sample, name, found[name])).sum()) if name in found else count
        shares[name] = spoiled / count if count else 0.0
    return shares


def covers_all(result: Tried, outputs: Iterable[str], sample: Case) -> bool:
    """Tell whether an assumption explains every value of some outputs in a sample."""
    differing = [name for name in outputs if bool(sample.differs[name].any())]
    return all(
        name in result.covered and not bool((sample.differs[name] & ~result.covered[name]).any()) for name in differing
    )
