"""The plan: the compiled form of definitions. Frozen data, without behaviour beyond its JSON form and its fingerprint.

A fingerprint covers everything but the fields marked ``COSMETIC``, and not the order of those marked
``UNORDERED``. So it covers names of views, features, aliases, sources and columns of the answer (they identify the
values and the events), dtypes, expressions with the source text of functions, key columns in their order
(stored state is keyed by it), times, windows, refresh. It does not cover names of services and entities, nor anything
that is not in a plan: owners, descriptions, tags, where a source lies, the order of definitions. Of a view
that a service uses in part it covers the whole: the view is evaluated and materialized as one, and the inputs of all
its features order events with equal times.

The module must not know how a plan is compiled, evaluated or stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from featurestore.core.dtypes import DType
from featurestore.core.temporal import (
    Ambiguous,
    LocalClock,
    Nonexistent,
    Refresh,
)
from featurestore.plan.codec import COSMETIC, UNORDERED, fingerprint_of, from_json, to_json
from featurestore.plan.names import feature_column

Param: TypeAlias = "bool | int | float | str | tuple[Param, ...] | None"
"""A constant inside a plan; other values are written as text in their canonical form."""


INGEST_COLUMN = "__ingest_time"
"""Column of the ingest time in a source that accepts pushes and names no such column."""

SEQUENCE_COLUMN = "__sequence"
"""Column that numbers the pushed events of a source in the order in which they were accepted."""

LOG_COLUMNS = frozenset({INGEST_COLUMN, SEQUENCE_COLUMN})
"""Columns that the log of pushed events adds; a source that accepts pushes cannot have columns of these names."""


@dataclass(frozen=True)
class TypedExpr:
    """A row expression whose nodes all have a dtype.

    Attributes:
        op: Name of the operation; ``column``, ``literal``, ``request``, ``feature``, ``as_of`` and ``udf`` are leaves
            or calls of their own, the others stand in the table of operations.
        dtype: Dtype of the node's value.
        args: The operands.
        params: Constants of the operation, sorted by name: ``(("name", "arr_delay"),)`` for a column.
    """

    op: str
    dtype: DType
    args: tuple[TypedExpr, ...] = ()
    params: tuple[tuple[str, Param], ...] = ()

    def param(self, name: str) -> Param:
        """Return one constant; ``KeyError`` if the node has none of that name."""
        return dict(self.params)[name]

    def nodes(self) -> Iterator[TypedExpr]:
        """Yield the node itself and all nodes below it."""
        yield self
        for arg in self.args:
            yield from arg.nodes()

    def columns(self) -> frozenset[str]:
        """Return the names of all source columns the expression reads."""
        columns = {str(self.param("name"))} if self.op == "column" else set()
        return frozenset(columns.union(*(arg.columns() for arg in self.args)))


@dataclass(frozen=True)
class Column:
    """A named, typed column: of a source, of an entity key, of a request."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class EntityPlan:
    """An entity and its key columns, in declared order."""

    name: str = field(metadata=COSMETIC)
    keys: tuple[Column, ...]


@dataclass(frozen=True)
class SourcePlan:
    """The part of a source that decides which events a view reads; not where the source lies.

    Attributes:
        name: Name of the source.
        columns: Every column the view needs, sorted by name: keys, times, event id, operands of expressions.
        event_time: Column of the instant a fact happened.
        ingest_time: Column of the instant it became known; ``None`` means it equals ``event_time``.
        event_id: Column that names one event across deliveries; ``None`` if every row is its own event.
        timezone: Zone in which naive timestamp columns are read; ``None`` if the source has none.
        inclusive: Whether an event is visible at its own instant.
        rows: The query or table of a SQL source; ``None`` for others.
        parsing: Options by which the source's text is read as values, sorted by name; empty for typed sources.
        ambiguous: How naive timestamps are read that the zone's clocks show twice.
        nonexistent: How naive timestamps are read that they never show.
        epochs: Columns of numbers that stand for instants, sorted by name, each with its unit of time since 1970.
    """

    name: str
    columns: tuple[Column, ...]
    event_time: str
    ingest_time: str | None = None
    event_id: str | None = None
    timezone: str | None = None
    inclusive: bool = False
    rows: str | None = None
    parsing: tuple[tuple[str, Param], ...] = ()
    ambiguous: Ambiguous = "later"
    nonexistent: Nonexistent = "raise"
    epochs: tuple[tuple[str, str], ...] = ()

    @property
    def clock(self) -> LocalClock | None:
        """How naive timestamps are read; ``None`` refuses them."""
        return None if self.timezone is None else LocalClock(self.timezone, self.ambiguous, self.nonexistent)

    def epoch_unit(self, column: str) -> str | None:
        """Return the unit of time since 1970 of a column's numbers; ``None`` if it is not declared as such."""
        return dict(self.epochs).get(column)


@dataclass(frozen=True)
class InputPlan:
    """The input of aggregations: one value per event, and the condition on which an event takes part.

    Attributes:
        value: The expression; ``None`` if the events themselves are counted.
        where: Events for which this is not true do not take part; ``None`` means that all do.
    """

    value: TypedExpr | None = None
    where: TypedExpr | None = None

    def columns(self) -> frozenset[str]:
        """Return the names of all source columns the input reads."""
        expressions = [expression for expression in (self.value, self.where) if expression is not None]
        return frozenset().union(*(expression.columns() for expression in expressions))


@dataclass(frozen=True)
class FeaturePlan:
    """One aggregated feature of a view.

    Attributes:
        name: Name within the view.
        aggregation: Name of the aggregation, for instance ``"mean"``.
        input: Index into the view's inputs.
        dtype: Dtype of the feature.
        window_us: Length of the window; ``None`` is the lifetime.
        resolution_us: Grid of the window's lower edge; 0 is exact.
        ttl_us: Time to live of a latest value; ``None`` is for ever.
        params: Options of the aggregation, sorted by name.
    """

    name: str
    aggregation: str
    input: int
    dtype: DType
    window_us: int | None = None
    resolution_us: int = 0
    ttl_us: int | None = None
    params: tuple[tuple[str, Param], ...] = ()

    def param(self, name: str) -> Param:
        """Return one option; ``KeyError`` if the feature has none of that name."""
        return dict(self.params)[name]


@dataclass(frozen=True)
class ViewPlan:
    """A compiled feature view: the unit that is evaluated, materialized and fingerprinted.

    Attributes:
        name: Name of the view.
        entity: The entity that the features describe.
        source: The source of the events.
        where: Events for which this is not true do not exist for the view; ``None`` means that all do.
        refresh: The freshness that the view promises.
        inputs: The distinct inputs of its features, in canonical order. Their values are also the content by which
            events with equal times are ordered.
        features: The features, sorted by name.
    """

    name: str
    entity: EntityPlan
    source: SourcePlan
    refresh: Refresh
    inputs: tuple[InputPlan, ...]
    features: tuple[FeaturePlan, ...]
    where: TypedExpr | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything in the view that can change a value."""
        return fingerprint_of(self)


@dataclass(frozen=True)
class ViewUse:
    """A view in a service, under an alias and with its entity keys bound to columns of the spine or request.

    Attributes:
        alias: Prefix of its columns; the view's name unless it was aliased.
        view: The view.
        keys: For each key column of the entity, in entity order, the column of the spine or request that holds it.
    """

    alias: str
    view: ViewPlan
    keys: tuple[str, ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The column of each feature, ``alias__feature``, in the order of the view's features."""
        return tuple(feature_column(self.alias, feature.name) for feature in self.view.features)


@dataclass(frozen=True)
class OnDemandFeature:
    """A feature computed at request time, from other features and request inputs.

    Its expression names features by their column (``feature`` nodes, param ``column``: ``"view__feature"``, where view
    is an alias or an on-demand view) and request inputs by name (``request`` nodes, param ``name``).
    """

    column: str
    expression: TypedExpr

    @property
    def dtype(self) -> DType:
        """Dtype of the feature."""
        return self.expression.dtype


@dataclass(frozen=True)
class Output:
    """One column of the answer.

    Attributes:
        name: Column name in training sets and online answers.
        column: The feature it shows: ``alias__feature`` of a view use, or the column of an on-demand feature.
        dtype: Its dtype.
        kind: Whether it is a feature of a view or an on-demand feature.
    """

    name: str
    column: str
    dtype: DType
    kind: Literal["view", "on_demand"]


@dataclass(frozen=True)
class Plan:
    """A compiled feature service: everything that the offline and the online path need to answer it.

    Attributes:
        name: Name of the service.
        uses: The views it reads, sorted by alias; also those that only on-demand features need.
        on_demand: On-demand features, each after the features it needs.
        request: Request inputs, sorted by name.
        outputs: The answer's columns, in the order the user listed them.
        policy: The audit policy of its definition, as canonical JSON; empty without one.
    """

    name: str = field(metadata=COSMETIC)
    uses: tuple[ViewUse, ...]
    on_demand: tuple[OnDemandFeature, ...] = ()
    request: tuple[Column, ...] = ()
    outputs: tuple[Output, ...] = field(default=(), metadata=UNORDERED)
    policy: str = field(default="", metadata=COSMETIC)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything in the service that can change a value or the name of its column."""
        return fingerprint_of(self)

    @cached_property
    def join_keys(self) -> tuple[Column, ...]:
        """The key columns a spine or request must have, sorted by name."""
        dtypes = {
            column: key.dtype for use in self.uses for column, key in zip(use.keys, use.view.entity.keys, strict=True)
        }
        return tuple(Column(name, dtypes[name]) for name in sorted(dtypes))

    @property
    def views(self) -> tuple[ViewPlan, ...]:
        """The views it reads, once each however often they are used."""
        return tuple({use.view.name: use.view for use in self.uses}.values())

    @cached_property
    def udfs(self) -> frozenset[tuple[str, str]]:
        """Name and source text of the functions that on-demand features call."""
        return frozenset(
            (str(node.param("name")), str(node.param("source")))
            for feature in self.on_demand
            for node in feature.expression.nodes()
            if node.op == "udf"
        )

    def to_json(self) -> str:
        """Return the plan as canonical JSON; equal plans give equal text."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan written by ``to_json``; it computes the same bits.

        Raises:
            RegistryError: The text is not a plan of a version that this library reads.
        """
        return from_json(cls, text)
