"""Comparing the distributions of two samples of a service, feature by feature. Pure; a policy judges the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.guard.drift.assess import assess
from featurestore.guard.drift.collect import Collector, Pair
from featurestore.guard.drift.distribution import AGED, Distribution, from_profile
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.reference import Reference
from featurestore.guard.drift.report import DriftReport, FeatureDrift
from featurestore.guard.drift.rows import EntityCounter, Rows
from featurestore.guard.drift.split import split


class Recomputed(NamedTuple):
    """A batch of the current rows in three versions.

    Attributes:
        by_reference: Computed with the definition of the reference.
        by_answering: Computed with the definition that answered.
        served: As they were served.
    """

    by_reference: pa.Table
    by_answering: pa.Table
    served: pa.Table


def compare_drift(
    *,
    service: str,
    reference: Reference,
    current: Rows,
    current_dtypes: Mapping[str, DType],
    policy: DriftPolicy,
    since: str,
    until: str,
    ran_at: str,
    current_entities: Mapping[str, str] | None = None,
    recomputed: Callable[[], Iterable[Recomputed]] | None = None,
    threads: int = 2,
) -> DriftReport:
    """Compare two samples and judge.

    Args:
        service: Name of the feature service.
        reference: The sample to compare with.
        current: Reads the current rows.
        current_dtypes: Dtypes of their features, by column.
        policy: Decides what is drift.
        since: First instant of the current rows, for the report.
        until: One past the last.
        ran_at: The present instant, for the report.
        current_entities: By feature, the column of the current rows that holds the bucket of the entity.
        recomputed: Reads the current rows that could be recomputed; if given, distances are split by cause.
        threads: Count of threads that count; the result does not depend on it.

    Returns:
        The judged report, features by name.
    """
    shared, not_compared = _shared(reference, current_dtypes)
    profiles = {name: from_profile(profile) for name, profile in (reference.profiles or {}).items() if name in shared}
    bins = {name: profile.bins for name, profile in profiles.items() if len(profile.bins)}
    collector = Collector(shared, threads, bins)
    before, now = EntityCounter(reference.entities), EntityCounter(current_entities or {})
    if (rows := reference.rows) is not None:
        pairs = collector.pairs(reference=lambda: before.counted(rows()), current=lambda: now.counted(current()))
    else:
        counted = collector.like(profiles, now.counted(current()))
        pairs = {name: Pair(profiles[name], counted[name]) for name in shared}
    pairs = {name: _weighed(pair, before.worth(name), now.worth(name)) for name, pair in pairs.items()}
    significance = policy.significance
    features = tuple(_assessed(name, shared[name], pairs[name], significance) for name in sorted(shared))
    if recomputed is not None:
        references = {name: pair.reference for name, pair in pairs.items()}
        samples = collector.all_like(references, recomputed(), samples=len(Recomputed._fields))
        features = tuple(_split(feature, references[feature.name], *samples) for feature in features)
    return policy.judge(
        DriftReport(
            service=service,
            reference=reference.label,
            since=since,
            until=until,
            ran_at=ran_at,
            reference_rows=max((feature.reference_rows for feature in features), default=0),
            current_rows=max((feature.current_rows for feature in features), default=0),
            features=features,
            not_compared=not_compared,
        )
    )


def _shared(reference: Reference, current: Mapping[str, DType]) -> tuple[dict[str, DType], dict[str, str]]:
    """Return the features that can be compared, and for the others the reason why not."""
    shared, reasons = {}, {}
    known = reference.dtypes
    for name in sorted(known.keys() | current.keys()):
        if name not in current:
            reasons[name] = "only the reference has it"
        elif name not in known:
            reasons[name] = "only the current sample has it"
        elif known[name] != current[name]:
            reasons[name] = f"its dtype was {known[name]} and is {current[name]}"
        elif known[name].kind in AGED and reference.rows is None:
            reasons[name] = "a manifest alone does not have the ages of its values before as_of"
        else:
            shared[name] = known[name]
    return shared, reasons


def _weighed(pair: Pair, reference: float, current: float) -> Pair:
    return Pair(replace(pair.reference, worth=reference), replace(pair.current, worth=current))


def _assessed(name: str, dtype: DType, pair: Pair, significance: float) -> FeatureDrift:
    # Samples that are far apart give infinities on the way to a probability of zero.
    with np.errstate(over="ignore", under="ignore"):
        return assess(name, str(dtype), reference=pair.reference, current=pair.current, significance=significance)


def _split(feature: FeatureDrift, reference: Distribution, *samples: Mapping[str, Distribution]) -> FeatureDrift:
    each = Recomputed._make(sample[feature.name] for sample in samples)
    return replace(feature, split=split(reference=reference, **each._asdict()))
