"""Sources that no longer hold what they held: online state still knows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from featurestore.skew.causes.model import Case, Hypothesis, SourceChange, Variant
from featurestore.skew.causes.world import Values, World

_FIX = (
    "Do not rewrite rows that were read: write corrections as new events with an ingest_time of their own. To let"
    " serving follow the source: store.materialize(full=True)."
)


def changes_of(case: Case) -> list[SourceChange]:
    """Return how the sources of a case's views differ from what materialize runs read."""
    found = [case.facts.changes(view.view) for view in case.world.views.values()]
    return [change for change in found if change is not None and change.is_rewritten]


def source_rewritten(case: Case) -> Iterator[Variant]:
    """Propose that serving answered from rows that the source no longer has, if online state still holds them."""
    known = changes_of(case)
    said = tuple(dict.fromkeys(line for change in known for line in change.said))
    sources = sorted({change.source for change in known})

    def apply(world: World) -> World | None:
        held = case.facts.held(world.plan, world.log)
        if held is None or not bool(held.is_answered.any()):
            return None

        def transform(_: World, name: str, found: Values) -> Values:
            if name not in held.values:
                return found
            own = held.values[name]
            chosen = pa.array(np.where(held.is_answered, np.arange(len(world)) + len(world), np.arange(len(world))))
            both = pa.concat_arrays([found.values, own.values])
            return Values(both.take(chosen), np.where(held.is_answered, own.statuses, found.statuses))

        return replace(world, transforms=(*world.transforms, transform))

    where = f"source {' and '.join(repr(name) for name in sources)}" if sources else "the source"
    yield Variant(
        "source_rewritten",
        f"online state still holds what was served; {where} no longer gives it",
        apply,
        {"sources": ", ".join(sources)},
        fix=_FIX,
        evidence=said,
        bits=2.0 if known else 20.0,
        row_bits=0.0 if known else 1.0,
    )


REWRITTEN = Hypothesis("source_rewritten", "the source no longer holds what it held", source_rewritten)
