"""Feature services: the list of features that a model uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from featurestore.definitions.arguments import explain_arguments
from featurestore.definitions.views import FeatureReference, FeatureView, OnDemandFeatureView, Selection

Listed = FeatureView | OnDemandFeatureView | Selection | FeatureReference
"""Items that a service may list: whole views, ``view["a", "b"]``, ``view["a"].renamed("x")``, ``view.aliased(…)``."""

ANY_FEATURE = "*"
"""Stands in the tolerances of a policy for every feature without one of its own."""


@explain_arguments({"views": "Write features=[view, other['a', 'b']]."})
@dataclass(frozen=True, eq=False)
class FeatureService:
    """The features that a model is trained on and requests.

    Columns are named ``view__feature`` and have the order of the list; features of a whole view are sorted by name.
    Where two would have the same name, rename one: ``view["a"].renamed("x")``, ``view.prefixed("p")``.

    Attributes:
        name: Name of the service.
        features: Whole views and selections of their features.
        policy: Differences that audits allow, with the keys of ``[policies.NAME]`` in ``featurestore.toml``, which
            overrides it key by key: ``{"allowed_share": 0.001, "tolerances": {"spend__mean_7d": {"relative": 1e-9}}}``;
            changes no value.
        owner: Person or team responsible for it; changes no value.
        description: Description for people; changes no value.
        tags: Further notes by name; changes no value.
    """

    name: str
    _: KW_ONLY
    features: Sequence[Listed]
    policy: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
