"""Feature views, on-demand feature views, and selections of their features.

``view["feature"]`` is both an expression, for on-demand features, and a selection, for services. Arguments are kept as
written. The compiler checks them, so that all mistakes are reported together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, overload

from featurestore.core.temporal import Refresh, continuous
from featurestore.definitions.arguments import explain_arguments
from featurestore.definitions.entities import DTypeLike, Entity
from featurestore.definitions.expr import Expr
from featurestore.definitions.sources import Source

if TYPE_CHECKING:
    from featurestore.definitions.aggregations import Aggregation


class Selectable(ABC):
    """Base of views, aliased views, on-demand views and selections, from which features can be selected."""

    @abstractmethod
    def select(self) -> Selection:
        """Return the selection of all features."""

    @overload
    def __getitem__(self, names: str) -> FeatureReference: ...

    @overload
    def __getitem__(self, names: tuple[str, ...]) -> Selection: ...

    def __getitem__(self, names: str | tuple[str, ...]) -> FeatureReference | Selection:
        """Select one feature, as an expression, or several, as a selection for a service."""
        if isinstance(names, tuple):
            return replace(self.select(), names=names)
        return reference_to(replace(self.select(), names=(names,)))

    def __iter__(self) -> Iterator[FeatureReference]:
        # Without this, Python would iterate over [0], [1], … without end.
        raise TypeError(f"{type(self).__name__} is not iterable; select features by name: view['a', 'b']")

    def prefixed(self, prefix: str) -> Selection:
        """Name the features' columns ``prefix__feature`` in the answer instead of ``view__feature``."""
        return replace(self.select(), prefix=prefix)

    def renamed(self, names: Mapping[str, str]) -> Selection:
        """Name columns of the answer.

        Args:
            names: From a feature's name to the whole name of its column.
        """
        return replace(self.select(), renames=names)


_AGGREGATE = "Write how events become a value: features={'name': agg.last(col('name'))}."
_VIEW_HINTS = {
    "entities": "A view has one entity: entity=driver. Several key columns are one entity: key=('buyer', 'seller').",
    "schema": _AGGREGATE,
    "ttl": "A time to live belongs to a feature: agg.last(col('name')).ttl('1d').",
    "online": "Leave it out: every view can be materialized.",
    "offline": "Leave it out: every view can be in a training set.",
    "batch_source": "Write source=….",
    "stream_source": "Write source=…, and stream=True on the source.",
    "aggregations": _AGGREGATE,
}
_ON_DEMAND_HINTS = {
    "sources": "Leave it out: refer to features by view['feature'], and to request inputs by request('input').",
    "schema": "Write features={'name': expression}; dtypes follow from the expressions.",
    "mode": "Write expressions, or a function with @udf(returns='float64').",
    "entities": "Leave it out: the entities are those of the views it refers to.",
}


@explain_arguments(_VIEW_HINTS)
@dataclass(frozen=True, eq=False)
class FeatureView(Selectable):
    """Features of one entity, aggregated from the events of one source.

    Attributes:
        name: Name of the view; its columns are named ``view__feature``.
        entity: The entity that the features describe.
        source: The source of the events.
        features: Aggregations by name. A name that holds ``{window}`` stands for one feature per window.
        where: Events for which this is not true do not exist for the view; ``None`` means that all do.
        refresh: The freshness that the view promises: ``continuous()`` or ``every("1h", lag="10m")``.
        owner: Person or team responsible for it; changes no value.
        description: Description for people; changes no value.
        tags: Further notes by name; changes no value.
    """

    name: str
    _: KW_ONLY
    entity: Entity
    source: Source
    features: Mapping[str, Aggregation]
    where: Expr | None = None
    refresh: Refresh = field(default_factory=continuous)
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def select(self) -> Selection:
        """Return the selection of all features under the view's own name."""
        return Selection(self)

    def aliased(self, alias: str, keys: Mapping[str, str] | None = None) -> Selection:
        """Use the view under another name, with its keys in other columns.

        Args:
            alias: Replaces the view's name in column names: ``alias__feature``.
            keys: From a key column of the entity to the column of the spine or request that holds it; other keys keep
                their own name.

        Example:
            ``weather.aliased("origin_weather", keys={"airport": "origin"})["temp"]``
        """
        return Selection(self, alias=alias, keys={} if keys is None else keys)


@explain_arguments(_ON_DEMAND_HINTS)
@dataclass(frozen=True, eq=False)
class OnDemandFeatureView(Selectable):
    """Features computed at request time: from other features, request inputs and ``as_of()``.

    Attributes:
        name: Name of the view; its columns are named ``view__feature``.
        features: Expressions by name, over ``view["feature"]``, ``request("input")`` and ``as_of()``.
        request: Dtypes of the request inputs, by name. The spine or the request gives their values.
        owner: Person or team responsible for it; changes no value.
        description: Description for people; changes no value.
        tags: Further notes by name; changes no value.
    """

    name: str
    _: KW_ONLY
    features: Mapping[str, Expr]
    request: Mapping[str, DTypeLike] = field(default_factory=dict)
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def select(self) -> Selection:
        """Return the selection of all features."""
        return Selection(self)


@dataclass(frozen=True, eq=False)
class Selection(Selectable):
    """Features of one view, as a service lists them.

    Attributes:
        view: The view.
        alias: Replaces the view's name in column names; ``None`` keeps it.
        keys: From a key column of the entity to the column that holds it, where they differ.
        names: The selected features; ``None`` selects all.
        prefix: Replaces the view's name in the names of the answer only; ``None`` keeps the alias.
        renames: From a feature's name to the whole name of its column in the answer.
    """

    view: FeatureView | OnDemandFeatureView
    alias: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    prefix: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """The alias of the view, or its name."""
        return self.view.name if self.alias is None else self.alias

    def select(self) -> Selection:
        """Return the selection itself."""
        return self


@dataclass(frozen=True, eq=False)
class FeatureReference(Expr):
    """One feature of a view: an expression in on-demand features, and a selection of one in services.

    Attributes:
        selection: The selection that holds just this feature.
    """

    selection: Selection = field(kw_only=True)

    def select(self) -> Selection:
        """Return the selection of just this feature."""
        return self.selection

    def renamed(self, name: str) -> Selection:
        """Name the feature's column in the answer of a service."""
        assert self.selection.names is not None
        return replace(self.selection, renames={self.selection.names[0]: name})

    def prefixed(self, prefix: str) -> Selection:
        """Name the feature's column ``prefix__feature`` in the answer of a service."""
        return replace(self.selection, prefix=prefix)


def reference_to(selection: Selection) -> FeatureReference:
    """Return the expression for the one feature of a selection."""
    assert selection.names is not None and len(selection.names) == 1
    params = (("feature", selection.names[0]), ("view", selection.role))
    return FeatureReference("feature", params=params, selection=selection)
