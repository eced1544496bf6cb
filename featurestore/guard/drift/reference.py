"""References of drift: a training set, its manifest alone, or another period of the serving log."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.errors import TrainingSetError
from featurestore.guard.drift.rows import Layout, Rows
from featurestore.offline.dataset import TrainingSet, read_manifest
from featurestore.offline.manifest import Manifest
from featurestore.offline.profile import FeatureProfile
from featurestore.plan.model import Plan

Period = tuple[int, int]
"""First instant of a period and one past its last, in microseconds."""


@dataclass(frozen=True)
class Reference:
    """The sample to compare with: rows, or the profiles that a manifest has of rows that are elsewhere.

    Attributes:
        label: The reference in words.
        dtypes: Dtypes of its features, by column.
        rows: Reads its rows; ``None`` if only profiles are known.
        profiles: Profiles of its features. If there are rows too, the rows are counted, in the bins of the profiles.
        entities: By feature, the column of the rows that holds the bucket of the entity, see ``sampling.buckets``.
    """

    label: str
    dtypes: Mapping[str, DType]
    rows: Rows | None = None
    profiles: Mapping[str, FeatureProfile] | None = None
    entities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Definition:
    """How the values of a reference were computed.

    Attributes:
        plan: The plan; ``None`` for a period of the log.
        hindsight: Whether every event counted as known from its event time on.
        answered: For a period of the log: rows by the fingerprint of the plan that answered, counted as they are read.
    """

    plan: Plan | None = None
    hindsight: bool = False
    answered: Counter[str] = field(default_factory=Counter)

    def among(self, plans: Mapping[str, Plan]) -> Plan | None:
        """Return the plan, for a period the one that answered most rows; ``None`` if ``plans`` does not have it."""
        return self.plan or next((plans.get(print_) for print_, _ in self.answered.most_common(1)), None)


def read_reference(text: str, folder: Path = Path()) -> str | tuple[str, str]:
    """Read a reference: a period ``SINCE..UNTIL``, otherwise the path of a training set or of its manifest.

    A text that is an existing path is a path, even with two dots in its name.

    Args:
        text: Two instants or ages (``"14d..7d"``), or a path.
        folder: Folder to which relative paths are relative.

    Example:
        >>> read_reference("14d..7d")
        ('14d', '7d')
        >>> read_reference("training", Path("/models"))
        '/models/training'
    """
    path = folder / text
    since, dots, until = text.partition("..")
    return (since, until) if dots and since and until and not path.exists() else str(path)


def reference_of(service: str, training_set: str | os.PathLike[str] | TrainingSet) -> tuple[Reference, Definition]:
    """Return a training set, or its manifest alone, as a reference, and how its values were computed.

    Args:
        service: Name of the service that is compared.
        training_set: A training set, its folder, or the file of a manifest.

    Raises:
        TrainingSetError: It is not a training set, or is a training set of another service.
    """
    if not isinstance(training_set, TrainingSet) and Path(training_set).is_file():
        return _of_manifest(service, read_manifest(training_set), f"the manifest '{training_set}'")
    built = training_set if isinstance(training_set, TrainingSet) else TrainingSet.open(training_set)
    reference, definition = _of_manifest(service, built.manifest, f"the training set '{built.path}'")
    assert definition.plan is not None, "a manifest has a plan"
    layout = Layout.of(definition.plan)

    def rows() -> map[pa.Table]:
        return map(layout.of_training_set, built.scan_questions([*layout.dtypes, *layout.keys]))

    return replace(reference, rows=rows, entities=layout.entities), definition


def _of_manifest(service: str, manifest: Manifest, label: str) -> tuple[Reference, Definition]:
    if manifest.service != service:
        raise TrainingSetError(
            f"it was built for the service '{manifest.service}', the service to compare is '{service}'",
            where=label,
            hint="Name a training set of the same service.",
            code="other-service",
        )
    plan = Plan.from_json(msgspec.json.encode(manifest.plan))
    profiles = {feature.name: feature for feature in manifest.features}
    return Reference(label, Layout.of(plan).dtypes, profiles=profiles), Definition(plan, manifest.hindsight)
