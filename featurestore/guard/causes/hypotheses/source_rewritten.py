"""``source_rewritten``: the source no longer holds what it held; online state still does."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa

from featurestore.guard.causes.model import (
    Assumption,
    Case,
    Hypothesis,
    SourceChange,
)
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import Values, World

_FIX = (
    "Do not rewrite rows that were read: write corrections as new events with an ingest_time of their own. To let"
    " serving follow the source: store.materialize(full=True)."
)


def rewritten_sources(case: Case, aliases: Collection[str]) -> list[SourceChange]:
    """Return how the sources of some views changed, of those whose rows were changed or are gone since a run."""
    changes = [case.facts.changes(view.view) for alias, view in case.world.views.items() if alias in aliases]
    return [change for change in changes if change is not None and (change.is_rewritten or change.was_rewritten)]


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that serving answered from rows that the source no longer has, if online state still holds them."""
    changes = [change for change in rewritten_sources(case, case.world.views.keys()) if change.is_rewritten]
    if not changes:
        return
    sources = sorted({change.source for change in changes})

    def apply(world: World) -> World | None:
        held = case.facts.held(world.plan, world.log)
        if held is None or not bool(held.is_answered.any()):
            return None

        def transform(_: World, name: str, computed: Values) -> Values:
            if name not in held.values:
                return computed
            state = held.values[name]
            count = len(world)
            chosen = pa.array(np.where(held.is_answered, np.arange(count) + count, np.arange(count)))
            both = pa.concat_arrays([computed.values, state.values])
            return Values(both.take(chosen), np.where(held.is_answered, state.statuses, computed.statuses))

        return world.with_transform(transform)

    # Where more rows came as well, what is missing in answers may be just these.
    may_be_late = any(change.grown_until_us is not None for change in changes)
    yield Assumption(
        f"online state still holds what was served; source {' and '.join(map(repr, sources))} no longer gives it",
        apply,
        {"sources": ", ".join(sources)},
        fix=_FIX,
        evidence=tuple(dict.fromkeys(line for change in changes for line in change.descriptions)),
        naming_bits=WEIGHTS.naming_recorded,
        row_bits=WEIGHTS.row_of_changed_source if may_be_late else 0.0,
    )


SOURCE_REWRITTEN = Hypothesis(
    "source_rewritten", rank=40, meaning="the source no longer holds what it held", propose=_propose
)
