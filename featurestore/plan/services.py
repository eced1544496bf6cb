"""Compiler pass over feature services: from a list of features to a ``Plan``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from featurestore.config import read_policy
from featurestore.core.dtypes import DType
from featurestore.core.errors import ConfigError, Mistake
from featurestore.definitions.services import ANY_FEATURE, FeatureService
from featurestore.definitions.views import FeatureView, OnDemandFeatureView, Selection
from featurestore.plan import mistakes
from featurestore.plan.checks import is_listable, where_is
from featurestore.plan.codec import canonical
from featurestore.plan.mistakes import Report
from featurestore.plan.model import Column, OnDemandFeature, Output, Plan, TypedExpr, ViewUse
from featurestore.plan.names import AS_OF, feature_column
from featurestore.plan.references import Compiled, bound_keys, references_in, selection_mistakes


@dataclass
class _Assembly:
    """A service being put together.

    Attributes:
        service: The service.
        compiled: Its views.
        problems: Mistakes so far.
        selections: The selections that the service lists or that on-demand features need, by alias or view name.
        on_demand: Needed on-demand features, each after what it needs.
    """

    service: FeatureService
    compiled: Compiled
    problems: list[Mistake] = field(default_factory=list)
    selections: dict[str, Selection] = field(default_factory=dict)
    on_demand: dict[str, TypedExpr] = field(default_factory=dict)
    is_incomplete: bool = False

    @property
    def where(self) -> str:
        return where_is(self.service)

    def report(self, mistake: Mistake) -> None:
        self.problems.append(mistake)


def compile_service(service: FeatureService, compiled: Compiled, report: Report) -> Plan | None:
    """Compile one feature service.

    Args:
        service: A service whose arguments have the right types.
        compiled: Views and on-demand features.
        report: Called with each mistake.

    Returns:
        The plan; ``None`` if the service, or anything it needs, has mistakes.
    """
    assembly = _Assembly(service, compiled)
    listed = [
        selection
        for i, item in enumerate(service.features)
        if is_listable(item, assembly.where, f"features[{i}]", assembly.report)
        and _is_sound(selection := item.select(), assembly)
    ]
    assembly.is_incomplete = any(not picked(selection, compiled) for selection in listed)
    needed = [(selection, name) for selection in listed for name in picked(selection, compiled)]
    for selection, name in sorted(needed, key=lambda item: (item[0].role, item[1])):
        _need(selection, name, assembly)
    outputs = [output for selection in listed for output in _outputs(selection, compiled)]
    uses = tuple(_uses(assembly))
    keys, requests = _key_dtypes(uses), _request_dtypes(assembly)
    _check_columns(keys, requests, assembly)
    _check_outputs(outputs, keys, requests, assembly)
    policy = _policy(outputs, assembly)
    for mistake in dict.fromkeys(assembly.problems):
        report(mistake)
    if assembly.problems or assembly.is_incomplete:
        return None
    return Plan(
        name=service.name,
        uses=uses,
        on_demand=tuple(OnDemandFeature(column, typed) for column, typed in assembly.on_demand.items()),
        request=tuple(Column(name, next(iter(dtypes))) for name, dtypes in sorted(requests.items())),
        outputs=tuple(outputs),
        policy=canonical(policy) if policy else "",
    )


def picked(selection: Selection, compiled: Compiled) -> tuple[str, ...]:
    """Return the features a selection holds: as listed, or all of the view sorted by name."""
    known = compiled.names(selection.view)
    return known if selection.names is None else selection.names


def _is_sound(selection: Selection, assembly: _Assembly) -> bool:
    """Report the mistakes of a selection by itself; return whether there are none."""
    problems = list(selection_mistakes(selection, assembly.compiled, assembly.where))
    assembly.problems += problems
    return not problems


def _need(selection: Selection, name: str, assembly: _Assembly) -> None:
    """Add what a feature needs to the assembly: its view, or the features it is computed from."""
    compiled, column = assembly.compiled, feature_column(selection.role, name)
    if compiled.dtype(selection.view, name) is None:
        assembly.is_incomplete = True
        return
    known = assembly.selections.setdefault(selection.role, selection)
    if known.view is not selection.view or bound_keys(known) != bound_keys(selection):
        assembly.report(mistakes.alias_taken(assembly.where, selection.role))
    if not isinstance(selection.view, OnDemandFeatureView) or column in assembly.on_demand:
        return
    references = references_in(selection.view.features[name], compiled, assembly.where, assembly.report)
    for reference in sorted(references, key=lambda s: (s.role, s.names)):
        _need(reference, (reference.names or ("",))[0], assembly)
    typed = compiled.features[id(selection.view), name]
    assert typed is not None
    assembly.on_demand[column] = typed


def _uses(assembly: _Assembly) -> Iterator[ViewUse]:
    for role, selection in sorted(assembly.selections.items()):
        plan = assembly.compiled.views.get(id(selection.view))
        if isinstance(selection.view, FeatureView) and plan is not None:
            yield ViewUse(role, plan, bound_keys(selection))


def _outputs(selection: Selection, compiled: Compiled) -> Iterator[Output]:
    for name in picked(selection, compiled):
        dtype = compiled.dtype(selection.view, name)
        if dtype is not None:
            yield Output(
                name=selection.renames.get(name) or feature_column(selection.prefix or selection.role, name),
                column=feature_column(selection.role, name),
                dtype=dtype,
                kind="view" if isinstance(selection.view, FeatureView) else "on_demand",
            )


def _key_dtypes(uses: tuple[ViewUse, ...]) -> dict[str, set[DType]]:
    dtypes: dict[str, set[DType]] = {}
    for use in uses:
        for column, key in zip(use.keys, use.view.entity.keys, strict=True):
            dtypes.setdefault(column, set()).add(key.dtype)
    return dtypes


def _request_dtypes(assembly: _Assembly) -> dict[str, set[DType]]:
    dtypes: dict[str, set[DType]] = {}
    for typed in assembly.on_demand.values():
        for name, dtype in requests_of(typed):
            dtypes.setdefault(name, set()).add(dtype)
    return dtypes


def requests_of(expression: TypedExpr) -> Iterator[tuple[str, DType]]:
    """Yield the request inputs an expression reads, with their dtypes."""
    if expression.op == "request":
        yield str(expression.param("name")), expression.dtype
    for operand in expression.args:
        yield from requests_of(operand)


def _check_columns(keys: dict[str, set[DType]], requests: dict[str, set[DType]], assembly: _Assembly) -> None:
    """Report columns of the spine that two parts of the service declare differently."""
    where = assembly.where
    for column, dtypes in sorted(keys.items()):
        if len(dtypes) > 1:
            assembly.report(mistakes.key_conflict(where, column, dtypes))
    for name, dtypes in sorted(requests.items()):
        if len(dtypes) > 1:
            assembly.report(mistakes.request_conflict(where, name, dtypes))
        if name in keys:
            assembly.report(mistakes.request_is_key(where, name))


def _policy(outputs: list[Output], assembly: _Assembly) -> dict[str, Any]:
    """Return the audit policy of the service as JSON data; report its mistakes."""
    try:
        policy = read_policy(assembly.service.policy, "policy")
    except ConfigError as error:
        assembly.report(mistakes.bad_policy(assembly.where, error))
        return {}
    names = {output.name for output in outputs}
    for name in policy.tolerances:
        if name not in names and name != ANY_FEATURE and not assembly.is_incomplete:
            assembly.report(mistakes.unknown_tolerance(assembly.where, name, names))
    return policy.model_dump(mode="json", exclude_unset=True)


def _check_outputs(
    outputs: list[Output], keys: dict[str, set[DType]], requests: dict[str, set[DType]], assembly: _Assembly
) -> None:
    """Report columns of the answer that share a name with one another or with a column of the spine."""
    seen: dict[str, str] = {}
    for output in outputs:
        if output.name in seen:
            columns = (seen[output.name], output.column)
            assembly.report(mistakes.output_collision(assembly.where, output.name, columns))
        seen.setdefault(output.name, output.column)
        if output.name == AS_OF:
            assembly.report(mistakes.reserved_name(assembly.where, "column", output.name))
        for names, what in ((keys, "a key column"), (requests, "a request input")):
            if output.name in names:
                assembly.report(mistakes.output_taken(assembly.where, output.name, what))
