"""``ttl_ignored``: values were served however old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import ViewWorld, each_view
from featurestore.plan.model import FeaturePlan


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that no feature has a time to live."""
    if any(feature.ttl_us is not None for view in case.world.views.values() for feature in view.view.features):
        yield Assumption(
            "values older than their ttl were served",
            each_view(_without_ttl),
            fix="Let serving drop values older than .ttl(…), or take the ttl out of the definition.",
        )


def _without_ttl(view: ViewWorld) -> ViewWorld | None:
    def without(feature: FeaturePlan) -> FeaturePlan | None:
        return None if feature.ttl_us is None else replace(feature, ttl_us=None)

    return view.with_features(without)


TTL_IGNORED = Hypothesis("ttl_ignored", rank=90, meaning="the time to live was not applied", propose=_propose)
