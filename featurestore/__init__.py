"""A feature store in which training sets and online answers come from the same compiled plan and the same kernels.

Names are imported when they are first used, so that ``import featurestore`` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurestore.core.moved import MovedFinder

if TYPE_CHECKING:
    from featurestore.core.answers import OnlineQuestion
    from featurestore.core.errors import DefinitionError, FeatureStoreError
    from featurestore.core.temporal import continuous, every
    from featurestore.definitions.aggregations import agg
    from featurestore.definitions.entities import Entity
    from featurestore.definitions.expr import as_of, coalesce, col, concat, greatest, least, lit, request, when
    from featurestore.definitions.services import FeatureService
    from featurestore.definitions.sources import CsvOptions, FileSource, FrameSource, SqlSource
    from featurestore.definitions.udf import udf
    from featurestore.definitions.views import FeatureView, OnDemandFeatureView
    from featurestore.store import FeatureStore

sys.meta_path.append(MovedFinder())

_HOMES = {
    "CsvOptions": "definitions.sources",
    "DefinitionError": "core.errors",
    "Entity": "definitions.entities",
    "FeatureService": "definitions.services",
    "FeatureStore": "store",
    "FeatureStoreError": "core.errors",
    "FeatureView": "definitions.views",
    "FileSource": "definitions.sources",
    "FrameSource": "definitions.sources",
    "OnDemandFeatureView": "definitions.views",
    "OnlineQuestion": "core.answers",
    "SqlSource": "definitions.sources",
    "agg": "definitions.aggregations",
    "as_of": "definitions.expr",
    "coalesce": "definitions.expr",
    "col": "definitions.expr",
    "concat": "definitions.expr",
    "continuous": "core.temporal",
    "every": "core.temporal",
    "greatest": "definitions.expr",
    "least": "definitions.expr",
    "lit": "definitions.expr",
    "request": "definitions.expr",
    "udf": "definitions.udf",
    "when": "definitions.expr",
}

__all__ = [
    "CsvOptions",
    "DefinitionError",
    "Entity",
    "FeatureService",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "FileSource",
    "FrameSource",
    "OnDemandFeatureView",
    "OnlineQuestion",
    "SqlSource",
    "agg",
    "as_of",
    "coalesce",
    "col",
    "concat",
    "continuous",
    "every",
    "greatest",
    "least",
    "lit",
    "request",
    "udf",
    "when",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute '{name}'")
    value = getattr(import_module(f"featurestore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
