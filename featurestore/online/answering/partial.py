"""Answers of which a part is missing: which columns depend on views that cannot answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from featurestore.core.answers import ViewError
from featurestore.core.errors import FeatureStoreError
from featurestore.plan.model import Plan, TypedExpr


def missing_columns(plan: Plan, aliases: Collection[str]) -> frozenset[str]:
    """Return the columns of a service's answer that need a view which cannot answer.

    Args:
        plan: The service.
        aliases: Views that cannot answer, by their name or alias.
    """
    return needing(
        plan,
        {column for use in plan.uses if use.alias in aliases for column in use.columns},
    )


def needing(plan: Plan, features: Collection[str]) -> frozenset[str]:
    """Return the columns of a service's answer that are features of views, or are computed from them.

    Args:
        plan: The service.
        features: The features, as ``alias__feature``.
    """
    missing = set(features)
    for feature in plan.on_demand:
        if not missing.isdisjoint(_features(feature.expression)):
            missing.add(feature.column)
    return frozenset(output.name for output in plan.outputs if output.column in missing)


def error_of(failure: FeatureStoreError) -> ViewError:
    """Return what is said of a view that cannot answer."""
    return ViewError(failure.code, f"{failure.problem}. {failure.hint}".strip())


def _features(expression: TypedExpr) -> Iterator[str]:
    """Yield the columns of features that an expression reads."""
    if expression.op == "feature":
        yield str(expression.param("column"))
    for operand in expression.args:
        yield from _features(operand)
