"""What refresh policies would cost in freshness, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from featurestore.guard.comparing.compare import FeatureCounts

SCHEMA = "featurestore-simulation-2"
"""Name and version of the simulation's JSON form."""


@dataclass(frozen=True)
class PolicyOutcome:
    """How a view would answer under one refresh policy, beside one that is always fresh.

    Attributes:
        refresh: The policy, in words.
        runs_per_day: Runs that keep its promise; ``None`` for ``continuous``, which takes every event as it comes.
        states_per_day: States of entities that are written a day: one for each run and entity with events in it;
            for ``continuous`` one for each event, at most.
        staleness_s: How far before the question the newest event may lie that counts, in seconds: median, 95th
            percentile, and largest over the questions.
        features: How the features differ from fresh ones, sorted by name; ``mismatch`` and the like count rows.
    """

    refresh: str
    runs_per_day: float | None
    states_per_day: float
    staleness_s: tuple[float, float, float]
    features: tuple[FeatureCounts, ...]

    @property
    def share(self) -> float:
        """Share of all values that differ from fresh ones."""
        compared = sum(feature.compared for feature in self.features)
        return sum(feature.different for feature in self.features) / compared if compared else 0.0

    @property
    def worst(self) -> FeatureCounts:
        """The feature of which the largest share differs."""
        return max(self.features, key=lambda feature: feature.share)


@dataclass(frozen=True)
class Simulation:
    """What several policies would do to one view.

    Attributes:
        view: Name of the view.
        declared: Its present policy, in words.
        since: First instant asked about.
        until: Last instant asked about.
        rows: Questions: pairs of entity and instant.
        questions: Where they come from, in words.
        not_found: Share of them about entities of which nothing is known then; no policy makes a difference there.
        events_per_day: Events that became known a day, whatever the policy: each is folded once.
        policies: The policies, in the order they were asked about.
        schema: Name and version of this form.
    """

    view: str
    declared: str
    since: str
    until: str
    rows: int
    questions: str
    not_found: float
    events_per_day: float
    policies: tuple[PolicyOutcome, ...]
    schema: str = SCHEMA

    def to_json(self) -> str:
        """Return the simulation as JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the simulation's JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)
