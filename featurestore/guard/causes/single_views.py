"""Assumptions about one view alone: for features computed on demand from several views, of which one is concerned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import World, views_read
from featurestore.plan.names import view_of


def mixed_outputs(case: Case, alias: str) -> frozenset[str]:
    """Return the outputs to explain that are computed on demand from a view and at least one other."""
    aliases_of = {name: views_read(case.world.plan, name) & case.world.views.keys() for name in case.outputs}
    return frozenset(name for name, aliases in aliases_of.items() if alias in aliases and len(aliases) > 1)


def assumptions_with_single_views(hypothesis: Hypothesis, case: Case) -> Iterator[Assumption]:
    """Propose assumptions, also about one view alone where nothing else is served of it that would speak for them."""
    served = {view_of(output.column) for output in case.world.plan.outputs if output.kind == "view"}
    silent = {alias: mixed for alias in case.world.views.keys() - served if (mixed := mixed_outputs(case, alias))}
    for assumption in hypothesis.assumptions(case):
        yield assumption
        if assumption.outputs is None and not assumption.is_searched:
            for alias in sorted(silent):
                yield about_one_view(alias, assumption, silent[alias])


def about_one_view(alias: str, assumption: Assumption, outputs: frozenset[str]) -> Assumption:
    """Return an assumption as it is made about one view alone.

    Args:
        alias: The view.
        assumption: The assumption as it is made about all views.
        outputs: The outputs it is about.
    """

    def apply(world: World) -> World | None:
        changed = assumption.apply(world)
        if changed is None or changed.as_of is not world.as_of:
            return None
        return replace(world, views={**world.views, alias: changed.views[alias]})

    return replace(assumption, statement=f"{assumption.statement}, in {alias} alone", apply=apply, outputs=outputs)
