"""Entities that were not found, or looked up under another spelling of their key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.kernels.events import NOT_FOUND
from featurestore.skew.causes.events import Events
from featurestore.skew.causes.model import Case, Hypothesis, Variant
from featurestore.skew.causes.world import ViewWorld, each_view, of_view
from featurestore.skew.compare import NOT_LOGGED

Spelling = Callable[[pa.Array], pa.Array]


def entity_missing(case: Case) -> Iterator[Variant]:
    """Propose that the entity was not there."""
    for alias in case.world.views:
        prefix = f"{alias}__"
        if any(
            bool(np.isin(case.served[name].statuses[case.differs[name]], (NOT_FOUND, NOT_LOGGED)).any())
            for name in case.outputs
            if _column(case, name).startswith(prefix)
        ):
            yield Variant(
                "entity_missing_online",
                f"the entity had no online state in {alias}",
                of_view(alias, _missing),
                {"view": alias},
                fix=f"Materialize the view behind {alias}: store.materialize(full=True); look for entities that the"
                " online store lets expire or evicts.",
            )
    yield Variant(
        "entity_missing_online",
        "the entity had no online state in any view",
        each_view(_missing),
        {"view": "all"},
        fix="Look for entities that were never written to the online store, or were evicted from it.",
    )


def _column(case: Case, output: str) -> str:
    return next(found.column for found in case.world.plan.outputs if found.name == output)


def _missing(view: ViewWorld) -> ViewWorld:
    return replace(view, is_missing=np.ones(len(view.keys[0]), dtype=np.bool_))


def spellings(keys: tuple[pa.Array, ...]) -> dict[str, Spelling]:
    """Return the ways in which text keys may be spelled otherwise, by name."""
    found: dict[str, Spelling] = {
        "trimmed": pc.utf8_trim_whitespace,
        "in lower case": pc.utf8_lower,
        "in upper case": pc.utf8_upper,
        "without leading zeros": _without_zeros,
    }
    lengths = {length for key in keys if pa.types.is_string(key.type) for length in pc.utf8_length(key).to_pylist()}
    for width in sorted(length for length in lengths if length)[-3:]:
        found[f"padded with zeros to {width}"] = lambda array, width=width: pc.utf8_lpad(array, width, "0")  # type: ignore[misc]
    return found


def _without_zeros(array: pa.Array) -> pa.Array:
    short = pc.utf8_ltrim(array, "0")
    return pc.if_else(pc.equal(short, ""), array, short)


def key_format(case: Case) -> Iterator[Variant]:
    """Propose that keys were asked for in another spelling, or that spellings of one key were taken for one entity."""
    for alias, view in case.world.views.items():
        if not any(pa.types.is_string(key.type) for key in view.keys):
            continue
        for name, spelling in spellings(view.keys).items():
            for both in (False, True):
                yield Variant(
                    "key_format",
                    f"keys of {alias} were {'taken' if both else 'asked for'} {name}",
                    of_view(alias, _spelled, spelling, both),
                    {"view": alias, "spelling": name, "of": "events and requests" if both else "requests"},
                    fix=f"Spell the key of {alias} one way on both roads: {name}, in the source or in the request.",
                )


def _spelled(view: ViewWorld, spelling: Spelling, both: bool) -> ViewWorld | None:
    keys = tuple(_changed(key, spelling) for key in view.keys)
    events = view.events
    if both:
        table = events.table
        for name in events.keys:
            column = _changed(table.column(name).combine_chunks(), spelling)
            table = table.set_column(table.column_names.index(name), name, column)
        if table.equals(events.table):
            return None
        events = Events(table, events.keys, numbers=events.numbers)
    elif all(key.equals(old) for key, old in zip(keys, view.keys, strict=True)):
        return None
    return replace(view, keys=keys, events=events)


def _changed(column: pa.Array, spelling: Spelling) -> pa.Array:
    return spelling(column) if pa.types.is_string(column.type) else column


MISSING = Hypothesis(
    "entity_missing_online", "the entity had no online state", entity_missing, most_bits=4.5, explains_absence=True
)
KEY_FORMAT = Hypothesis("key_format", "the key was looked up in another spelling", key_format, explains_absence=True)
