"""``text_format``: text that was respelled: in another case, trimmed, cut off, or decoded as if it were Latin-1."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.guard.causes.altering import (
    SPELLINGS,
    Change,
    alter,
    differing_values,
    map_items,
    map_values,
)
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS


def _as_latin_1(text: str) -> str:
    """Read the bytes of UTF-8 as if each were one character."""
    return text.encode().decode("latin-1")


_SPELLINGS: tuple[tuple[str, Change], ...] = (
    *SPELLINGS,
    ("in composed characters (NFC)", partial(pc.utf8_normalize, form="NFC")),
    ("as if its UTF-8 were Latin-1", partial(map_values, change=_as_latin_1)),
)


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that text, and the items of lists of text, were respelled before they were served."""
    texts = frozenset(output for output in case.outputs if _is_text(case, output))
    for spelling, change in _SPELLINGS if texts else ():
        yield Assumption(
            f"text is served {spelling}",
            alter(partial(_respelled, change)),
            {"spelling": spelling},
            outputs=texts,
            fix=f"Serve text as it is computed: it was served {spelling}.",
        )
    for output in sorted(texts):
        longest = _longest_cut(case, output)
        if longest is not None:
            yield Assumption(
                f"{output} is served cut to {longest} characters",
                alter(partial(pc.utf8_slice_codeunits, start=0, stop=longest), output),
                {"spelling": "cut", "characters": longest},
                outputs=frozenset({output}),
                fix=f"Make room for the whole text of {output}: whatever carries it holds {longest} characters.",
                naming_bits=WEIGHTS.naming_learned,
            )


def _is_text(case: Case, output: str) -> bool:
    dtype = case.dtype(output)
    return (dtype.item or dtype).kind == "string"


def _respelled(change: Change, array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        return map_items(array, change) if pa.types.is_string(array.type.value_type) else array
    return change(array) if pa.types.is_string(array.type) else array


def _longest_cut(case: Case, output: str) -> int | None:
    """Return the longest length of the served texts that are the beginning of the right ones."""
    reference, served = differing_values(case, output)
    if not pa.types.is_string(reference.type):
        return None
    pairs = zip(reference.to_pylist(), served.to_pylist(), strict=True)
    return max((len(cut) for whole, cut in pairs if whole.startswith(cut)), default=None)


TEXT_FORMAT = Hypothesis(
    "text_format",
    rank=150,
    meaning="text was spelled otherwise, or cut off",
    propose=_propose,
    most_where_bits=WEIGHTS.where_respelled,
    alters_values=True,
)
