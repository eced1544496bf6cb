"""``key_format``: keys were looked up in another spelling, or spellings of one key were taken for one entity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.guard.causes.altering import SPELLINGS, Change
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, of_view

_NUMBER = r"^[0-9]+(\.0*)?$"
_MOST_WIDTHS = 3


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose every spelling of text keys, for requests alone and for requests and events."""
    for alias, view in case.world.views.items():
        if not any(pa.types.is_string(key.type) for key in view.keys):
            continue
        known = [view.events.table.column(name).combine_chunks() for name in view.events.keys]
        for name, spelling in spellings(view.keys, known).items():
            for both in (False, True):
                yield Assumption(
                    f"keys of {alias} were {'taken' if both else 'asked for'} {name}",
                    of_view(alias, _respelled, spelling, both),
                    {"view": alias, "spelling": name, "of": "events and requests" if both else "requests"},
                    fix=f"Spell the key of {alias} one way on both roads: serving had it {name}, the log has not.",
                )


def _respelled(view: ViewWorld, spelling: Change, both: bool) -> ViewWorld | None:
    """Spell the keys of requests otherwise, or those of events as well; ``None`` if nothing changes."""
    keys = tuple(_respelled_column(key, spelling) for key in view.keys)
    events = view.events
    if both:
        table = events.table
        for name in events.keys:
            column = _respelled_column(table.column(name).combine_chunks(), spelling)
            table = table.set_column(table.column_names.index(name), name, column)
        if table.equals(events.table):
            return None
        events = Events(table, events.keys, numbers=events.numbers)
    elif all(key.equals(old) for key, old in zip(keys, view.keys, strict=True)):
        return None
    return replace(view, keys=keys, events=events)


def _respelled_column(column: pa.Array, spelling: Change) -> pa.Array:
    return spelling(column) if pa.types.is_string(column.type) else column


def spellings(keys: Sequence[pa.Array], known: Sequence[pa.Array]) -> dict[str, Change]:
    """Return the ways in which text keys may be spelled otherwise, by name.

    Args:
        keys: Keys that are asked for.
        known: Keys of the source.
    """
    by_name: dict[str, Change] = {
        **dict(SPELLINGS),
        "without leading zeros": _without_zeros,
        "as whole numbers": _whole,
        "as floats": _float,
    }
    for width in sorted({width for column in (*keys, *known) for width in _widths(column)}):
        by_name[f"padded with zeros to {width}"] = partial(_padded, width=width)
        by_name[f"as whole numbers padded with zeros to {width}"] = partial(_whole_padded, width=width)
    return by_name


def _widths(column: pa.Array) -> list[int]:
    """Return the most frequent lengths of keys that are numbers."""
    if not pa.types.is_string(column.type):
        return []
    digits = column.filter(pc.match_substring_regex(column, _NUMBER).fill_null(False))
    lengths = Counter(pc.utf8_length(digits).to_pylist())
    return [length for length, _ in lengths.most_common(_MOST_WIDTHS)]


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


KEY_FORMAT = Hypothesis(
    "key_format",
    rank=200,
    meaning="the key was looked up in another spelling",
    propose=_propose,
    explains_absence=True,
)
