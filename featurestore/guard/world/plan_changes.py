"""The differences between two plans of a service, in the words of the definitions they were compiled from."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.core.temporal import format_duration
from featurestore.plan.model import FeaturePlan, InputPlan, Param, Plan, TypedExpr, ViewPlan

_OPERATIONS = "add sub mul div floordiv mod pow eq ne lt le gt ge and or"
_OPERATORS = "+ - * / // % ** == != < <= > >= & |"
_OPERATOR_OF = dict(zip(_OPERATIONS.split(), _OPERATORS.split(), strict=True))

_SOURCE_OPTIONS = (
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
)


def plan_changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """Return how one plan differs from another, one line per difference.

    Args:
        before: The plan that should have answered.
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
    old_expressions, new_expressions = (
        {feature.column: feature.expression for feature in plan.on_demand} for plan in (before, after)
    )
    for column in sorted(old_expressions.keys() | new_expressions.keys()):
        if column not in old_expressions or column not in new_expressions:
            yield f"{column}: {'added' if column in new_expressions else 'removed'}"
        elif old_expressions[column] != new_expressions[column]:
            yield f"{column}: {shown(old_expressions[column])} → {shown(new_expressions[column])}"


def _view_changes(alias: str, before: ViewPlan, after: ViewPlan) -> Iterator[str]:
    if before.refresh != after.refresh:
        yield f"{alias}: refresh {before.refresh} → {after.refresh}"
    if before.where != after.where:
        yield f"{alias}: where {_optional(before.where)} → {_optional(after.where)}"
    for name in _SOURCE_OPTIONS:
        old_value, new_value = getattr(before.source, name), getattr(after.source, name)
        if old_value != new_value:
            yield f"{alias}: source {name} {old_value} → {new_value}"
    old, new = ({feature.name: feature for feature in view.features} for view in (before, after))
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"{alias}.{name}: {'added' if name in new else 'removed'}"
            continue
        old_text, new_text = declared(before, old[name]), declared(after, new[name])
        if old_text != new_text:
            yield f"{alias}.{name}: {old_text} → {new_text}"


def declared(view: ViewPlan, feature: FeaturePlan) -> str:
    """Return a feature as definitions declare it."""
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
    """Return an expression in short form.

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
    if expression.op in _OPERATOR_OF and len(parts) == 2:
        return f"({parts[0]} {_OPERATOR_OF[expression.op]} {parts[1]})"
    parts += [f"{name}={value}" for name, value in expression.params]
    return f"{expression.op}({', '.join(parts)})"
