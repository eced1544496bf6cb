"""Entities that were not found, or looked up under another spelling of their key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags
from featurestore.core.statuses import NOT_FOUND, NOT_LOGGED
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.causes.spelling import SPELLINGS
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, World, of_view
from featurestore.kernels.words import validity
from featurestore.serving_log.columns import status_column, value_column

_DIGITS = r"^[0-9]+(\.0*)?$"
_WIDTHS = 3

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
                partial(_without_state, (alias,)),
                {"view": alias},
                fix=f"Materialize the view behind {alias}: store.materialize(full=True); look for entities that the"
                " online store lets expire or evicts.",
            )
    yield Variant(
        "entity_missing_online",
        "the entity had no online state in any view",
        partial(_without_state, tuple(case.world.views)),
        {"view": "all"},
        fix="Look for entities that were never written to the online store, or were evicted from it.",
    )


def _column(case: Case, output: str) -> str:
    return next(found.column for found in case.world.plan.outputs if found.name == output)


def _without_state(aliases: tuple[str, ...], world: World) -> World | None:
    """Take the entity away in rows in which every feature of a view was served as if it were not there.

    An entity is there for all features of a view or for none: a null beside a value of the same view has another cause.
    """
    views = dict(world.views)
    for alias in aliases:
        if alias in views:
            views[alias] = replace(views[alias], is_missing=_looks_missing(world, alias))
    is_any = any(view.is_missing is not None and bool(view.is_missing.any()) for view in views.values())
    return replace(world, views=views) if is_any else None


def _looks_missing(world: World, alias: str) -> Flags:
    """Tell per row whether nothing of a view was found; where no statuses are logged, counts of 0 speak for it too."""
    found = np.ones(len(world), dtype=np.bool_)
    for output in world.plan.outputs:
        if output.kind != "view" or not output.column.startswith(f"{alias}__"):
            continue
        served = world.column(value_column(output.name))
        statuses = world.column(status_column(output.name)).to_numpy(zero_copy_only=False)
        nothing = ~validity(served)
        if pa.types.is_integer(served.type):
            nothing |= pc.equal(served, 0).fill_null(False).to_numpy(zero_copy_only=False)
        found &= (statuses == NOT_FOUND) | ((statuses == NOT_LOGGED) & nothing)
    return found


def spellings(keys: Sequence[pa.Array], known: Sequence[pa.Array]) -> dict[str, Spelling]:
    """Return the ways in which text keys may be spelled otherwise, by name.

    Args:
        keys: Keys that are asked for.
        known: Keys of the source.
    """
    found: dict[str, Spelling] = {
        **dict(SPELLINGS),
        "without leading zeros": _without_zeros,
        "as whole numbers": _whole,
        "as floats": _float,
    }
    for width in sorted({width for column in (*keys, *known) for width in _widths(column)}):
        found[f"padded with zeros to {width}"] = partial(_padded, width=width)
        found[f"as whole numbers padded with zeros to {width}"] = partial(_whole_padded, width=width)
    return found


def _widths(column: pa.Array) -> list[int]:
    """Return the most frequent lengths of keys that are numbers."""
    if not pa.types.is_string(column.type):
        return []
    digits = column.filter(pc.match_substring_regex(column, _DIGITS).fill_null(False))
    lengths = Counter(pc.utf8_length(digits).to_pylist())
    return [length for length, _ in lengths.most_common(_WIDTHS)]


def _padded(array: pa.Array, width: int) -> pa.Array:
    return pc.utf8_lpad(array, width, "0")


def _whole_padded(array: pa.Array, width: int) -> pa.Array:
    return _padded(_whole(array), width)


def _without_zeros(array: pa.Array) -> pa.Array:
    """Take zeros away that numbers do not need: of several zeros one stays."""
    return pc.replace_substring_regex(array, "^0+(.)", r"\1")


def _whole(array: pa.Array) -> pa.Array:
    """Write floats as whole numbers: 7 for 7.0."""
    return pc.replace_substring_regex(array, r"^(-?[0-9]+)\.0*$", r"\1")


def _float(array: pa.Array) -> pa.Array:
    """Write whole numbers as floats: 7.0 for 7, or for 007."""
    return pc.replace_substring_regex(array, "^0*([0-9]+)$", r"\1.0")


def key_format(case: Case) -> Iterator[Variant]:
    """Propose that keys were asked for in another spelling, or that spellings of one key were taken for one entity."""
    for alias, view in case.world.views.items():
        if not any(pa.types.is_string(key.type) for key in view.keys):
            continue
        known = [view.events.table.column(name).combine_chunks() for name in view.events.keys]
        for name, spelling in spellings(view.keys, known).items():
            for both in (False, True):
                yield Variant(
                    "key_format",
                    f"keys of {alias} were {'taken' if both else 'asked for'} {name}",
                    of_view(alias, _spelled, spelling, both),
                    {"view": alias, "spelling": name, "of": "events and requests" if both else "requests"},
                    fix=f"Spell the key of {alias} one way on both roads: serving had it {name}, the log has not.",
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
    "entity_missing_online", "the entity had no online state", entity_missing, row_bits=4.5, explains_absence=True
)
KEY_FORMAT = Hypothesis("key_format", "the key was looked up in another spelling", key_format, explains_absence=True)
