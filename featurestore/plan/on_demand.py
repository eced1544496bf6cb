"""Compiler pass over on-demand features: typed once, whichever services list them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from featurestore.definitions.collection import Definitions, nodes_of
from featurestore.definitions.expr import Expr
from featurestore.definitions.views import (
    SEPARATOR,
    FeatureReference,
    FeatureView,
    OnDemandFeatureView,
    Selection,
    column_name,
)
from featurestore.dtypes import DType
from featurestore.errors import Mistake
from featurestore.plan import mistakes
from featurestore.plan.checks import AS_OF, is_expression, is_name, read_dtype, where_is
from featurestore.plan.mistakes import Report, place
from featurestore.plan.model import TypedExpr, ViewPlan
from featurestore.plan.typing import Scope, infer
from featurestore.plan.views import feature_names, udf_mistakes


@dataclass(frozen=True)
class Compiled:
    """What views and on-demand views compiled to so far, found by the definition object itself.

    Attributes:
        definitions: The definitions, for references by name.
        views: Plans by ``id`` of the view; views with mistakes are missing.
        requests: Dtypes of request inputs by ``id`` of the on-demand view.
        features: Typed on-demand features by ``id`` of their view and name; ``None`` for those with mistakes.
    """

    definitions: Definitions
    views: Mapping[int, ViewPlan]
    requests: dict[int, dict[str, DType]] = field(default_factory=dict)
    features: dict[tuple[int, str], TypedExpr | None] = field(default_factory=dict)

    @property
    def all_views(self) -> tuple[FeatureView | OnDemandFeatureView, ...]:
        """Views and on-demand views."""
        return (*self.definitions.views, *self.definitions.on_demand)

    def names(self, view: FeatureView | OnDemandFeatureView) -> tuple[str, ...]:
        """Return the names of a view's features, sorted; none if the view is not of sound shape."""
        if not self._is_sound(view):
            return ()
        return feature_names(view) if isinstance(view, FeatureView) else tuple(sorted(map(str, view.features)))

    def lacks(self, view: FeatureView | OnDemandFeatureView, name: str) -> bool:
        """Tell whether a view has no such feature; one that is not of sound shape could have any."""
        return self._is_sound(view) and name not in self.names(view)

    def _is_sound(self, view: FeatureView | OnDemandFeatureView) -> bool:
        return id(view) in self._sound

    @cached_property
    def _sound(self) -> frozenset[int]:
        return frozenset(id(view) for view in self.all_views)

    def dtype(self, view: FeatureView | OnDemandFeatureView, name: str) -> DType | None:
        """Return the dtype of a feature; ``None`` if it has mistakes."""
        if isinstance(view, OnDemandFeatureView):
            typed = self.features.get((id(view), name))
            return None if typed is None else typed.dtype
        plan = self.views.get(id(view))
        return None if plan is None else next((found.dtype for found in plan.features if found.name == name), None)

    def find(self, name: str) -> FeatureView | OnDemandFeatureView | None:
        """Return a view by name."""
        return next((view for view in self.all_views if view.name == name), None)


def compile_on_demand(compiled: Compiled, report: Report) -> None:
    """Type every on-demand feature, those it needs first."""
    for view in compiled.definitions.on_demand:
        compiled.requests[id(view)] = _requests(view, report)
    for view in compiled.definitions.on_demand:
        for name in sorted(view.features, key=str):
            _type_feature(view, name, compiled, (), report)


def _requests(view: OnDemandFeatureView, report: Report) -> dict[str, DType]:
    where, found = where_is(view), {}
    for name, written in view.request.items():
        if not isinstance(name, str) or not name:
            report(mistakes.bad_name(where, name))
        elif name == AS_OF:
            report(mistakes.reserved_name(where, "request input", name))
        dtype = read_dtype(where, written, report)
        if dtype is not None:
            found[name] = dtype
    return found


def _type_feature(
    view: OnDemandFeatureView, name: str, compiled: Compiled, path: tuple[str, ...], report: Report
) -> None:
    """Type one feature and keep it in ``compiled.features``; ``path`` holds the features that wait for it."""
    key, column = (id(view), name), column_name(view.name, name)
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
    found = list(_bad_nodes(view, name, where))
    references = list(references_in(view.features[name], compiled, where, found.append))
    for selection in references:
        (needed,) = selection.names or ()
        if isinstance(selection.view, OnDemandFeatureView):
            _type_feature(selection.view, needed, compiled, (*path, column), report)
    for mistake in dict.fromkeys(found):
        report(mistake)
    dtypes = {s.role + SEPARATOR + n: compiled.dtype(s.view, n) for s in references for n in s.names or ()}
    if key in compiled.features:
        return
    known = {column: dtype for column, dtype in dtypes.items() if dtype is not None}
    requests = compiled.requests[id(view)]
    if found or len(known) < len(dtypes) or not asked_in(view.features[name]) <= requests.keys():
        compiled.features[key] = None
        return
    scope = Scope(columns={}, requests=requests, features=known, allow_as_of=True)
    compiled.features[key] = infer(view.features[name], scope, report, where)


def _bad_nodes(view: OnDemandFeatureView, name: str, where: str) -> Iterator[Mistake]:
    if not is_name(name):
        yield mistakes.bad_name(where, name)
    for node in nodes_of(view.features[name]):
        if node.op == "column":
            yield mistakes.column_on_demand(where, str(dict(node.params)["name"]))
    for asked in sorted(asked_in(view.features[name]) - set(view.request)):
        yield mistakes.undeclared_request(where, asked, view.request)
    yield from udf_mistakes(view.features[name], where)


def asked_in(expression: Expr) -> set[str]:
    """Return the request inputs an expression reads."""
    return {str(dict(node.params)["name"]) for node in nodes_of(expression) if node.op == "request"}


def references_in(expression: Expr, compiled: Compiled, where: str, report: Report) -> Iterator[Selection]:
    """Yield the features an expression refers to, each as a selection of one; report those that are not there."""
    for node in nodes_of(expression):
        if node.op != "feature":
            continue
        selection = node.selection if isinstance(node, FeatureReference) else _by_name(node, compiled, where, report)
        if selection is None:
            continue
        (name,) = selection.names or ()
        if compiled.lacks(selection.view, name):
            known = compiled.names(selection.view)
            report(mistakes.unknown_feature(where, selection.view.name, name, known))
        else:
            yield selection


def _by_name(node: Expr, compiled: Compiled, where: str, report: Report) -> Selection | None:
    """Return what a reference that holds only ``"view__feature"`` stands for."""
    alias, _, feature = str(dict(node.params)["column"]).partition(SEPARATOR)
    view = compiled.find(alias)
    if view is None:
        report(mistakes.unknown_view(where, alias, (known.name for known in compiled.all_views)))
        return None
    return Selection(view, names=(feature,))
