"""What differs between two plans of a service, in the words of the definitions they were compiled from."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.core.temporal import format_duration
from featurestore.plan.model import FeaturePlan, InputPlan, Param, Plan, TypedExpr, ViewPlan

_NAMES = "add sub mul div floordiv mod pow eq ne lt le gt ge and or"
_MARKS = "+ - * / // % ** == != < <= > >= & |"
_INFIX = dict(zip(_NAMES.split(), _MARKS.split(), strict=True))


def plan_changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """Tell how one plan differs from another, one line per difference.

    Args:
        before: The plan that is said to have answered.
        after: The plan that reproduces the answers.
    """
    return tuple(_changes(before, after)) or ("only names or the order of columns",)


def _changes(before: Plan, after: Plan) -> Iterator[str]:
    old, new = ({use.alias: use.view for use in plan.uses} for plan in (before, after))
    for alias in sorted(old.keys() | new.keys()):
        if alias not in old or alias not in new:
            yield f"{alias}: {'added' if alias in new else 'removed'}"
        elif old[alias] != new[alias]:
            yield from _view_changes(alias, old[alias], new[alias])
    first, second = ({found.column: found.expression for found in plan.on_demand} for plan in (before, after))
    for column in sorted(first.keys() | second.keys()):
        if column not in first or column not in second:
            yield f"{column}: {'added' if column in second else 'removed'}"
        elif first[column] != second[column]:
            yield f"{column}: {shown(first[column])} → {shown(second[column])}"


def _view_changes(alias: str, before: ViewPlan, after: ViewPlan) -> Iterator[str]:
    if before.refresh != after.refresh:
        yield f"{alias}: refresh {before.refresh} → {after.refresh}"
    if before.where != after.where:
        yield f"{alias}: where {_optional(before.where)} → {_optional(after.where)}"
    for name in (
        "name",
        "event_time",
        "ingest_time",
        "event_id",
        "timezone",
        "ambiguous",
        "nonexistent",
        "epochs",
        "inclusive",
        "rows",
    ):
        left, right = getattr(before.source, name), getattr(after.source, name)
        if left != right:
            yield f"{alias}: source {name} {left} → {right}"
    old, new = ({feature.name: feature for feature in view.features} for view in (before, after))
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"{alias}.{name}: {'added' if name in new else 'removed'}"
            continue
        left, right = (declared(view, found[name]) for view, found in ((before, old), (after, new)))
        if left != right:
            yield f"{alias}.{name}: {left} → {right}"


def declared(view: ViewPlan, feature: FeaturePlan) -> str:
    """Write a feature as it is declared."""
    source: InputPlan = view.inputs[feature.input]
    arguments = [] if source.value is None else [shown(source.value)]
    arguments += [] if source.where is None else [f"where={shown(source.where)}"]
    arguments += [_option(name, value) for name, value in feature.params if (name, value) != ("respect_nulls", False)]
    window = "lifetime()" if feature.window_us is None else f'over("{format_duration(feature.window_us)}")'
    resolution = f' resolution "{format_duration(feature.resolution_us)}"' if feature.resolution_us else ""
    ttl = "" if feature.ttl_us is None else f'.ttl("{format_duration(feature.ttl_us)}")'
    return f"{feature.aggregation}({', '.join(arguments)}).{window}{resolution}{ttl}"


def _option(name: str, value: Param) -> str:
    if name == "unit_us" and isinstance(value, int):
        return f"unit={format_duration(value)}"
    return f"{name}={value}"


def _optional(expression: TypedExpr | None) -> str:
    return "nothing" if expression is None else shown(expression)


def shown(expression: TypedExpr) -> str:
    """Write an expression in short.

    Example:
        >>> from featurestore.core.dtypes import INT64
        >>> shown(TypedExpr("column", INT64, params=(("name", "delay"),)))
        'delay'
    """
    constants = dict(expression.params)
    if expression.op in ("column", "request"):
        return str(constants["name"])
    if expression.op == "feature":
        return str(constants["column"])
    if expression.op == "literal":
        return str(constants.get("value"))
    parts = [shown(arg) for arg in expression.args]
    if expression.op in _INFIX and len(parts) == 2:
        return f"({parts[0]} {_INFIX[expression.op]} {parts[1]})"
    parts += [f"{name}={value}" for name, value in expression.params]
    return f"{expression.op}({', '.join(parts)})"
