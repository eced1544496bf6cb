"""Partial answers: which views failed, and which columns are missing because of that."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from featurestore.core.answers import ViewError
from featurestore.core.errors import FeatureStoreError
from featurestore.plan.model import Plan, TypedExpr


class ViewFailures:
    """The failures of single views during one request. If every view fails, the request fails.

    Attributes:
        are_collected: Whether failures of single views are collected; if not, the first one is raised.
        by_view: The failures by the position of the view.
    """

    def __init__(self, view_count: int) -> None:
        """Take the count of views; 0 if no partial answer is wanted."""
        self.are_collected = view_count > 0
        self.by_view: dict[int, FeatureStoreError] = {}
        self._view_count = view_count

    def add(self, view: int, failure: FeatureStoreError) -> None:
        """Add the failure of a view; raise it if failures are not collected, or if every view has failed now."""
        self.by_view.setdefault(view, failure)
        if len(self.by_view) >= self._view_count:
            raise failure


def columns_of_views(plan: Plan, aliases: Collection[str]) -> frozenset[str]:
    """Return the output columns of a service that depend on some of its views.

    Args:
        plan: The service.
        aliases: The views, by their name or alias.
    """
    return columns_of_features(
        plan,
        {column for use in plan.uses if use.alias in aliases for column in use.columns},
    )


def columns_of_features(plan: Plan, features: Collection[str]) -> frozenset[str]:
    """Return the output columns of a service that are some features, or are computed from them.

    Args:
        plan: The service.
        features: The features, as ``alias__feature``.
    """
    columns = set(features)
    for feature in plan.on_demand:
        if not columns.isdisjoint(_features_in(feature.expression)):
            columns.add(feature.column)
    return frozenset(output.name for output in plan.outputs if output.column in columns)


def view_error(failure: FeatureStoreError) -> ViewError:
    """Return the part of an answer that reports the failure of a view."""
    return ViewError(failure.code, f"{failure.problem}. {failure.hint}".strip())


def _features_in(expression: TypedExpr) -> Iterator[str]:
    """Yield the columns of features that an expression reads."""
    if expression.op == "feature":
        yield str(expression.param("column"))
    for operand in expression.args:
        yield from _features_in(operand)
