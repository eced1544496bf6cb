"""Compiler pass over on-demand features: each is typed once, for all services that list it."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.core.dtypes import DType
from featurestore.core.errors import Mistake
from featurestore.definitions.collection import nodes_of
from featurestore.definitions.expr import Expr
from featurestore.definitions.views import OnDemandFeatureView
from featurestore.plan import mistakes
from featurestore.plan.checks import is_expression, read_dtype, where_is
from featurestore.plan.mistakes import Report, place
from featurestore.plan.names import AS_OF, feature_column, is_name
from featurestore.plan.references import Compiled, references_in
from featurestore.plan.typing import Scope, infer
from featurestore.plan.views import udf_mistakes, without_trial_mistakes


def compile_on_demand(compiled: Compiled, report: Report) -> None:
    """Type every on-demand feature, after the features it needs."""
    for view in compiled.definitions.on_demand:
        compiled.requests[id(view)] = _requests(view, report)
    for view in compiled.definitions.on_demand:
        for name in sorted(view.features, key=str):
            _type_feature(view, name, compiled, (), report)


def _requests(view: OnDemandFeatureView, report: Report) -> dict[str, DType]:
    where, dtypes = where_is(view), {}
    for name, written in view.request.items():
        if not isinstance(name, str) or not name:
            report(mistakes.bad_name(where, name))
        elif name == AS_OF:
            report(mistakes.reserved_name(where, "request input", name))
        dtype = read_dtype(where, written, report)
        if dtype is not None:
            dtypes[name] = dtype
    return dtypes


def _type_feature(
    view: OnDemandFeatureView, name: str, compiled: Compiled, path: tuple[str, ...], report: Report
) -> None:
    """Type one feature and store it in ``compiled.features``; ``path`` holds the features that need it."""
    key, column = (id(view), name), feature_column(view.name, name)
    if key in compiled.features:
        return
    where = place("on-demand feature view", view.name, name)
    if column in path:
        report(mistakes.cycle(where, (*path[path.index(column) :], column)))
        compiled.features[key] = None
        return
    if not is_expression(view.features[name], where, "the feature", report):
        compiled.features[key] = None
        return
    problems = list(_bad_nodes(view, name, where))
    references = list(references_in(view.features[name], compiled, where, problems.append))
    for selection in references:
        (needed,) = selection.names or ()
        if isinstance(selection.view, OnDemandFeatureView):
            _type_feature(selection.view, needed, compiled, (*path, column), report)
    for mistake in dict.fromkeys(problems):
        report(mistake)
    dtypes = {feature_column(s.role, n): compiled.dtype(s.view, n) for s in references for n in s.names or ()}
    if key in compiled.features:
        return
    known = {column: dtype for column, dtype in dtypes.items() if dtype is not None}
    requests = compiled.requests[id(view)]
    if problems or len(known) < len(dtypes) or not requests_read(view.features[name]) <= requests.keys():
        compiled.features[key] = None
        return
    scope = Scope(columns={}, requests=requests, features=known, allow_as_of=True)
    typed = infer(view.features[name], scope, report, where)
    compiled.features[key] = None if typed is None else without_trial_mistakes(typed, where, report)


def _bad_nodes(view: OnDemandFeatureView, name: str, where: str) -> Iterator[Mistake]:
    if not is_name(name):
        yield mistakes.bad_name(where, name)
    for node in nodes_of(view.features[name]):
        if node.op == "column":
            yield mistakes.column_on_demand(where, str(dict(node.params)["name"]))
    for request in sorted(requests_read(view.features[name]) - set(view.request)):
        yield mistakes.undeclared_request(where, request, view.request)
    yield from udf_mistakes(view.features[name], where)


def requests_read(expression: Expr) -> set[str]:
    """Return the request inputs an expression reads."""
    return {str(dict(node.params)["name"]) for node in nodes_of(expression) if node.op == "request"}
