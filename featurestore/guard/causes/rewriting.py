"""Sources that no longer hold what they held: online state still knows it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from featurestore.guard.causes.model import (
    Case,
    Hypothesis,
    SourceChange,
    Variant,
)
from featurestore.guard.world.world import Values, World

_GROWN_BITS = 6.0
"""What a value costs where rows may only have come: more than to search the events that came."""

_FIX = (
    "Do not rewrite rows that were read: write corrections as new events with an ingest_time of their own. To let"
    " serving follow the source: store.materialize(full=True)."
)


def changes_of(case: Case, aliases: Collection[str]) -> list[SourceChange]:
    """Return what became of the sources of some views whose rows were changed or are gone since they were read."""
    found = [case.facts.changes(view.view) for alias, view in case.world.views.items() if alias in aliases]
    return [change for change in found if change is not None and (change.is_rewritten or change.was_rewritten)]


def source_rewritten(case: Case) -> Iterator[Variant]:
    """Propose that serving answered from rows that the source no longer has, if online state still holds them."""
    known = [change for change in changes_of(case, case.world.views.keys()) if change.is_rewritten]
    if not known:
        return
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

    # Where more rows came as well, what is missing in answers may be just these.
    may_be_late = any(change.grown_until_us is not None for change in known)
    yield Variant(
        "source_rewritten",
        f"online state still holds what was served; source {' and '.join(map(repr, sources))} no longer gives it",
        apply,
        {"sources": ", ".join(sources)},
        fix=_FIX,
        evidence=said,
        bits=2.0,
        row_bits=_GROWN_BITS if may_be_late else 0.0,
    )


REWRITTEN = Hypothesis("source_rewritten", "the source no longer holds what it held", source_rewritten)
