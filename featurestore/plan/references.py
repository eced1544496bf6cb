"""References to features: the views that selections refer to, and whether those views have the selected features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from featurestore.core.dtypes import DType
from featurestore.core.errors import Mistake
from featurestore.definitions.collection import Definitions, nodes_of
from featurestore.definitions.expr import Expr
from featurestore.definitions.views import FeatureReference, FeatureView, OnDemandFeatureView, Selection
from featurestore.plan import mistakes
from featurestore.plan.mistakes import Report
from featurestore.plan.model import TypedExpr, ViewPlan
from featurestore.plan.names import AS_OF, is_name, is_output_name
from featurestore.plan.views import feature_names


@dataclass(frozen=True)
class Compiled:
    """The plans of the views and on-demand views compiled so far, by definition object.

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

    def is_sound(self, view: FeatureView | OnDemandFeatureView) -> bool:
        """Return whether the arguments of a view have the right types, so that its fields can be read."""
        return id(view) in self._names

    def names(self, view: FeatureView | OnDemandFeatureView) -> tuple[str, ...]:
        """Return the names of a view's features, sorted; none if its arguments have wrong types."""
        return self._names.get(id(view), ())

    def lacks(self, view: FeatureView | OnDemandFeatureView, name: str) -> bool:
        """Return whether a view has no such feature; a view with arguments of wrong types could have any."""
        return self.is_sound(view) and not (isinstance(name, str) and name in self.names(view))

    @cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        views = {id(view): feature_names(view) for view in self.definitions.views}
        return views | {id(view): tuple(sorted(map(str, view.features))) for view in self.definitions.on_demand}

    def dtype(self, view: FeatureView | OnDemandFeatureView, name: str) -> DType | None:
        """Return the dtype of a feature; ``None`` if it has mistakes."""
        if isinstance(view, OnDemandFeatureView):
            typed = self.features.get((id(view), name))
            return None if typed is None else typed.dtype
        plan = self.views.get(id(view))
        return (
            None if plan is None else next((feature.dtype for feature in plan.features if feature.name == name), None)
        )

    def find(self, name: str) -> FeatureView | OnDemandFeatureView | None:
        """Return a view by name."""
        return next((view for view in self.all_views if view.name == name), None)


def references_in(expression: Expr, compiled: Compiled, where: str, report: Report) -> Iterator[Selection]:
    """Yield the features an expression refers to, each as a selection of one; report those that do not exist."""
    for node in nodes_of(expression):
        if node.op != "feature":
            continue
        selection = node.selection if isinstance(node, FeatureReference) else _by_name(node, compiled, where, report)
        if selection is None:
            continue
        problems = list(selection_mistakes(selection, compiled, where))
        for mistake in problems:
            report(mistake)
        if not problems:
            yield selection


def _by_name(node: Expr, compiled: Compiled, where: str, report: Report) -> Selection | None:
    """Return the selection for a reference that holds only the names of a view and a feature."""
    params = dict(node.params)
    view = compiled.find(str(params["view"]))
    if view is None:
        report(mistakes.unknown_view(where, str(params["view"]), (known.name for known in compiled.all_views)))
        return None
    return Selection(view, names=(str(params["feature"]),))


def selection_mistakes(selection: Selection, compiled: Compiled, where: str) -> Iterator[Mistake]:
    """Yield what is wrong with a selection by itself, wherever it is used."""
    view, known = selection.view, compiled.names(selection.view)
    for name in selection.names or ():
        if compiled.lacks(view, name):
            yield mistakes.unknown_feature(where, view.name, name, known)
    for part in (selection.alias, selection.prefix):
        if part is not None and not is_name(part):
            yield mistakes.bad_name(where, part)
    yield from _renaming_mistakes(selection, compiled, where)
    if not isinstance(selection.keys, Mapping):
        yield mistakes.wrong_kind(where, "keys", selection.keys, "a mapping from key to column")
    elif isinstance(view, FeatureView):
        yield from _binding_mistakes(selection, view, compiled, where)
    elif selection.alias is not None:
        yield mistakes.aliased_on_demand(where, view.name)


def _renaming_mistakes(selection: Selection, compiled: Compiled, where: str) -> Iterator[Mistake]:
    if not isinstance(selection.renames, Mapping):
        yield mistakes.wrong_kind(where, "renamed(…)", selection.renames, "a mapping from feature to column")
        return
    view, known = selection.view, selection.names or compiled.names(selection.view)
    for name, column in selection.renames.items():
        if compiled.lacks(view, name) or (compiled.is_sound(view) and name not in known):
            yield mistakes.unknown_feature(where, view.name, name, known)
        if not is_output_name(column):
            yield mistakes.bad_name(where, column)


def _binding_mistakes(selection: Selection, view: FeatureView, compiled: Compiled, where: str) -> Iterator[Mistake]:
    for key, column in selection.keys.items():
        if compiled.is_sound(view) and key not in view.entity.keys:
            yield mistakes.unknown_key(where, key, view.entity.name, view.entity.keys)
        if not isinstance(column, str) or not column:
            yield mistakes.wrong_kind(where, f"the column of key '{key}'", column, "the name of a column")
        elif column == AS_OF:
            yield mistakes.reserved_name(where, f"the column of key '{key}'", column)


def bound_keys(selection: Selection) -> tuple[str, ...]:
    """Return the column of each key of the entity, in its order; none for on-demand views."""
    if isinstance(selection.view, OnDemandFeatureView):
        return ()
    return tuple(selection.keys.get(key, key) for key in selection.view.entity.keys)
