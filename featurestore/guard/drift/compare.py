"""Comparing the features of two samples: which can be compared, their distributions, and what the policy says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.guard.drift.assess import assess
from featurestore.guard.drift.collect import Collector, Pair, Rows
from featurestore.guard.drift.distribution import AGED, Distribution, from_profile
from featurestore.guard.drift.entities import Entities
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.report import DriftReport, FeatureDrift
from featurestore.guard.drift.split import split
from featurestore.offline.profile import FeatureProfile


@dataclass(frozen=True)
class Reference:
    """What is compared with: rows, or the profiles that a manifest holds of rows that are elsewhere.

    Attributes:
        label: What it is, in words.
        dtypes: Dtypes of its features, by column.
        rows: Reads its rows; ``None`` if only profiles are known.
        profiles: Profiles of its features. Where there are rows, too, these are counted, in the profiles' bins.
        entities: Columns of its rows that hold buckets of entities, as ``sampling.buckets`` gives them, by feature.
    """

    label: str
    dtypes: Mapping[str, DType]
    rows: Rows | None = None
    profiles: Mapping[str, FeatureProfile] | None = None
    entities: Mapping[str, str] = field(default_factory=dict)


class Recomputed(NamedTuple):
    """A batch of the current rows, thrice.

    Attributes:
        by_reference: As the reference's definition has them.
        by_answering: As the definition has them that answered.
        served: As they were answered.
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
        current_entities: Columns of the current rows that hold buckets of entities, by feature.
        recomputed: Reads the current rows that could be recomputed, and what they should be; if given, distances are
            split.
        threads: Threads that count; the result does not depend on it.

    Returns:
        The judged report, features by name.
    """
    shared, not_compared = _shared(reference, current_dtypes)
    profiles = {name: from_profile(one) for name, one in (reference.profiles or {}).items() if name in shared}
    bins = {name: one.bins for name, one in profiles.items() if len(one.bins)}
    collector = Collector(shared, threads, bins)
    before, now = Entities(reference.entities), Entities(current_entities or {})
    if (rows := reference.rows) is not None:
        pairs = collector.pairs(reference=lambda: before.seen(rows()), current=lambda: now.seen(current()))
    else:
        found = collector.like(profiles, now.seen(current()))
        pairs = {name: Pair(profiles[name], found[name]) for name in shared}
    pairs = {name: _weighed(pair, before.worth(name), now.worth(name)) for name, pair in pairs.items()}
    significance = policy.significance
    features = tuple(_assessed(name, shared[name], pairs[name], significance) for name in sorted(shared))
    if recomputed is not None:
        known = {name: pair.reference for name, pair in pairs.items()}
        samples = collector.all_like(known, recomputed(), samples=len(Recomputed._fields))
        features = tuple(_split(feature, known[feature.name], *samples) for feature in features)
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
            reasons[name] = "a manifest alone does not say how long before as_of it lay"
        else:
            shared[name] = known[name]
    return shared, reasons


def _weighed(pair: Pair, reference: float, current: float) -> Pair:
    return Pair(replace(pair.reference, worth=reference), replace(pair.current, worth=current))


def _assessed(name: str, dtype: DType, pair: Pair, significance: float) -> FeatureDrift:
    # Far from each other, two samples give infinities on the way to a probability of zero.
    with np.errstate(over="ignore", under="ignore"):
        return assess(name, str(dtype), reference=pair.reference, current=pair.current, significance=significance)


def _split(feature: FeatureDrift, reference: Distribution, *samples: Mapping[str, Distribution]) -> FeatureDrift:
    each = Recomputed._make(sample[feature.name] for sample in samples)
    return replace(feature, split=split(reference=reference, **each._asdict()))
