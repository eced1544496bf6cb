"""Comparing the features of two samples: which can be compared, their distributions, and what the policy says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from featurestore.dtypes import DType
from featurestore.offline.profile import FeatureProfile
from featurestore.skew.drift.assess import assess
from featurestore.skew.drift.collect import Collector, Pair, Rows
from featurestore.skew.drift.distribution import Distribution, from_profile
from featurestore.skew.drift.policy import DriftPolicy
from featurestore.skew.drift.report import DriftReport, FeatureDrift
from featurestore.skew.drift.split import split


@dataclass(frozen=True)
class Reference:
    """What is compared with: rows, or the profiles that a manifest holds of rows that are elsewhere.

    Attributes:
        label: What it is, in words.
        dtypes: Dtypes of its features, by column.
        rows: Reads its rows; ``None`` if only profiles are known.
        profiles: Profiles of its features. Where there are rows, too, these are counted, in the profiles' bins.
    """

    label: str
    dtypes: Mapping[str, DType]
    rows: Rows | None = None
    profiles: Mapping[str, FeatureProfile] | None = None


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
    recomputed: Rows | None = None,
    threads: int = 2,
) -> DriftReport:
    """Compare distributions and judge.

    Args:
        service: Name of the feature service.
        reference: What is compared with.
        current: Reads the current rows.
        current_dtypes: Dtypes of its features, by column.
        policy: What is drift.
        since: First instant of the current rows, for the report.
        until: One past the last.
        ran_at: The present instant, for the report.
        recomputed: Reads the current rows as the training set would have them; if given, distances are split.
        threads: Threads that count; the result does not depend on it.

    Returns:
        The judged report, features by name.
    """
    shared, not_compared = _shared(reference.dtypes, current_dtypes)
    profiles = {name: from_profile(one) for name, one in (reference.profiles or {}).items() if name in shared}
    bins = {name: one.bins for name, one in profiles.items() if len(one.bins)}
    collector = Collector(shared, threads, bins)
    if reference.rows is not None:
        pairs = collector.pairs(reference=reference.rows, current=current)
    else:
        found = collector.like(profiles, current)
        pairs = {name: Pair(profiles[name], found[name]) for name in shared}
    significance = policy.significance
    features = tuple(_assessed(name, shared[name], pairs[name], significance) for name in sorted(shared))
    if recomputed is not None:
        again = collector.like({name: pair.reference for name, pair in pairs.items()}, recomputed)
        features = tuple(_split(feature, pairs[feature.name], again[feature.name]) for feature in features)
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


def _shared(reference: Mapping[str, DType], current: Mapping[str, DType]) -> tuple[dict[str, DType], dict[str, str]]:
    shared, reasons = {}, {}
    for name in sorted(reference.keys() | current.keys()):
        if name not in current:
            reasons[name] = "only the reference has it"
        elif name not in reference:
            reasons[name] = "only the current sample has it"
        elif reference[name] != current[name]:
            reasons[name] = f"its dtype was {reference[name]} and is {current[name]}"
        else:
            shared[name] = reference[name]
    return shared, reasons


def _assessed(name: str, dtype: DType, pair: Pair, significance: float) -> FeatureDrift:
    # Far from each other, two samples give infinities on the way to a probability of zero.
    with np.errstate(over="ignore", under="ignore"):
        return assess(name, str(dtype), reference=pair.reference, current=pair.current, significance=significance)


def _split(feature: FeatureDrift, pair: Pair, recomputed: Distribution) -> FeatureDrift:
    return replace(feature, split=split(training=pair.reference, recomputed=recomputed, served=pair.current))
