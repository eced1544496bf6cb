"""Which assumption explains best: each is judged by the bits it saves, as a message would be.

A value saves bits if it is explained, by how rare it is among those of its feature. That an assumption gives ``true``
where ``true`` was served says next to nothing: every second guess does. That it gives a sum of floats to the bit says a
lot. So a value is worth the logarithm of how seldom another assumption would give it by chance, estimated from all
values of the feature on both roads.

An assumption costs bits: to name it, to say row by row what was changed, and, if it would have spoiled values that are
equal or leaves others unexplained, to say where it holds. What is left is its gain. An assumption that agrees no more
often than by chance pays for saying where it does as much as it saves. So an assumption that holds everywhere is named
before a chance agreement in a few rows; of equal gains that of the lowest rank is taken. ``weights`` holds the costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Floats, Ints
from featurestore.core.statuses import NOT_FOUND
from featurestore.guard.causes.model import Case
from featurestore.guard.causes.trials import Trial
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import Values
from featurestore.kernels.words import validity
from featurestore.plan.names import view_of


def surprises(case: Case) -> dict[str, Floats]:
    """Return per output and row how many bits it saves to explain what was served, at most ``WEIGHTS.value``.

    A value that is seen ``c`` times among ``n`` is worth ``log2(n / c)``. Of those seen once, most would not be seen
    at all in other rows if hardly any is seen twice: then they are worth more than ``log2(n)``. That an entity was not
    found is not a value among others, and is worth the most.

    Args:
        case: The rows, those that differ and some that do not.

    Source:
        Good 1953, "The population frequencies of species and the estimation of population parameters", for values
        that are seen once.
    """
    return {name: _surprise(case, name) for name in case.differs}


def _surprise(case: Case, name: str) -> Floats:
    """Rate what was served in each row by its frequency among all values, of both roads where they differ."""
    rows = np.flatnonzero(case.differs[name])
    codes = _codes(case.reference[name], case.served[name])
    count = len(case.world)
    pool = np.concatenate([codes[:count], codes[count:][rows]])
    frequencies = np.bincount(pool, minlength=int(codes.max(initial=0)) + 1)
    once, twice = int((frequencies == 1).sum()), int((frequencies == 2).sum())
    expected = frequencies.astype(np.float64)
    expected[frequencies == 1] = min(1.0, (2 * twice + 1) / max(once, 1))
    # A value that holds is that of the reference, and is in the pool by it.
    served = np.maximum(expected[codes[count:]], 1 / max(once, 1))
    bits = np.minimum(math.log2(max(len(pool), 1)) - np.log2(served), WEIGHTS.value)
    return np.where(case.served[name].statuses == NOT_FOUND, WEIGHTS.value, bits)


def _codes(reference: Values, served: Values) -> Ints:
    """Number equal values alike: those of the reference, then those served; nulls by their status."""
    both = [reference, served]
    if reference.values.type != served.values.type or pa.types.is_nested(reference.values.type):
        columns = [pa.array([repr(value) for value in road.values.to_pylist()], pa.string()) for road in both]
    else:
        columns = [road.values for road in both]
    encoded = pa.concat_arrays(columns).dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    is_null = np.concatenate([~validity(road.values) for road in both])
    statuses = np.concatenate([road.statuses for road in both]).astype(np.int64)
    return np.where(is_null, len(encoded.dictionary) + statuses, codes)


def output_groups(case: Case) -> list[tuple[str, ...]]:
    """Group outputs that are explained together: those of one view, and each on-demand feature by itself."""
    groups: dict[str, list[str]] = {}
    for output in case.world.plan.outputs:
        if output.name in case.differs:
            is_view = output.kind == "view"
            key = f"view {view_of(output.column)}" if is_view else f"output {output.name}"
            groups.setdefault(key, []).append(output.name)
    return [tuple(names) for names in groups.values()]


@dataclass
class _Tally:
    """What an assumption does in a group of outputs.

    Attributes:
        rows: Rows of the sample in which it explains any value.
        values: Values of the sample that it explains.
        saved_bits: What they are worth.
        explained: Values that it explains, of the whole case.
        spoiled: Values that it spoils or leaves unexplained, of all rows that the case stands for.
    """

    rows: Flags
    values: int = 0
    saved_bits: float = 0.0
    explained: float = 0.0
    spoiled: float = 0.0


class Scorer:
    """Scores trials on samples of one case.

    Args:
        case: The case; what is explained is taken out of its ``differs`` as the proof goes on.
        clean: Per output the count of rows that do not differ, of which the case holds a sample.
    """

    def __init__(self, case: Case, clean: Mapping[str, int]) -> None:
        self._case = case
        self._clean = clean
        self._at_first = {name: int(flags.sum()) for name, flags in case.differs.items()}
        self.groups = output_groups(case)

    def choose(self, sample: Case, trials: Sequence[Trial]) -> list[tuple[Trial, tuple[str, ...]]]:
        """Choose assumptions for each group of outputs, the one with the largest gain first.

        Returns:
            The chosen trials, each with the group that it is chosen for; one trial may be chosen for several groups.
        """
        chosen: list[tuple[Trial, tuple[str, ...]]] = []
        for outputs in self.groups:
            left = {name: sample.differs[name].copy() for name in outputs}
            while any(bool(flags.any()) for flags in left.values()):
                known = {id(trial) for trial, _ in chosen}
                gains = [self.gain(trial, outputs, sample, left, is_known=id(trial) in known) for trial in trials]
                best = int(np.argmax(gains)) if gains else -1
                if best < 0 or gains[best] <= 0:
                    break
                chosen.append((trials[best], outputs))
                for name in outputs:
                    if name in trials[best].explained:
                        left[name] &= ~trials[best].explained[name]
        return chosen

    def gain(
        self, trial: Trial, outputs: Sequence[str], sample: Case, left: Mapping[str, Flags], *, is_known: bool = False
    ) -> float:
        """Return the bits that an assumption saves in a group of outputs; negative if it costs more than it saves.

        Args:
            trial: The assumption, tried on the sample.
            outputs: The group.
            sample: The sample.
            left: Per output the rows of the sample that are to be explained.
            is_known: Whether the assumption explains another group already.

        Returns:
            The gain; minus infinity if the assumption explains nothing, or too little to be named.
        """
        assumption = trial.assumption
        tally = self._tally(trial, outputs, sample, left)
        if tally.explained == 0:
            return -math.inf
        held_share = tally.explained / (tally.explained + tally.spoiled)
        if held_share < assumption.least_held:
            return -math.inf
        worth = tally.saved_bits / (tally.values * WEIGHTS.value) if tally.values else 0.0
        most_where_bits = trial.hypothesis.most_where_bits * worth if worth else 0.0
        where_bits = min(_entropy(held_share) / held_share, most_where_bits)
        naming_bits = assumption.naming_bits - (WEIGHTS.known_elsewhere if is_known else 0.0)
        naming_bits += int(tally.rows.sum()) * assumption.events_per_row * WEIGHTS.event
        return tally.saved_bits * (1 - trial.row_bits / WEIGHTS.value) - tally.values * where_bits - naming_bits

    def _tally(self, trial: Trial, outputs: Sequence[str], sample: Case, left: Mapping[str, Flags]) -> _Tally:
        tally = _Tally(np.zeros(len(sample.world), dtype=np.bool_))
        for name in outputs:
            if name not in trial.explained:
                continue
            in_sample = int(sample.differs[name].sum())
            if in_sample:
                scale = int(self._case.differs[name].sum()) / in_sample
                of_all = int(trial.explained[name].sum()) * scale
                if of_all < trial.assumption.least_share * self._at_first[name]:
                    continue
                flags = trial.explained[name] & left[name]
                count = int(flags.sum())
                tally.rows |= flags
                tally.values += count
                tally.saved_bits += float(sample.bits[name][flags].sum())
                tally.explained += count * scale
                # What is said row by row says by itself where it holds.
                tally.spoiled += 0.0 if trial.row_bits else int((left[name] & ~flags).sum()) * scale
            # Single events concern entities that the case knows, not those of all other rows of the log.
            is_searched = trial.assumption.is_searched
            holding = int(self._case.holds[name].sum()) if is_searched else self._clean[name]
            tally.spoiled += trial.spoiled_shares[name] * holding
        return tally

    def share_of_left(self, name: str, share: float) -> float:
        """Convert a share of an output's values that differed at first into one of those that are left."""
        left = int(self._case.differs[name].sum())
        return share * self._at_first[name] / left if left else math.inf


def _entropy(share: float) -> float:
    """Return the bits it takes to say of one thing whether it belongs to a share."""
    if share in (0.0, 1.0):
        return 0.0
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)
