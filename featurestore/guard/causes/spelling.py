"""Text that was spelled otherwise on its way: in another case, trimmed, cut off, or decoded as if it were Latin-1."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.guard.causes.altering import (
    LEARNED_BITS,
    Change,
    changed,
    differing,
    dtype_of,
    each,
    of_items,
)
from featurestore.guard.causes.model import Case, Hypothesis, Variant

SPELLINGS: tuple[tuple[str, Change], ...] = (
    ("trimmed", pc.utf8_trim_whitespace),
    ("in lower case", pc.utf8_lower),
    ("in upper case", pc.utf8_upper),
)
"""What programs do to text of any kind, keys and request inputs included."""


def _as_latin_1(text: str) -> str:
    """Read the bytes of UTF-8 as if each were one character."""
    return text.encode().decode("latin-1")


_WRITTEN: tuple[tuple[str, Change], ...] = (
    *SPELLINGS,
    ("in composed characters (NFC)", partial(pc.utf8_normalize, form="NFC")),
    ("as if its UTF-8 were Latin-1", partial(each, change=_as_latin_1)),
)


def text_format(case: Case) -> Iterator[Variant]:
    """Propose that text, and the items of lists of text, were spelled otherwise before they were served."""
    texts = frozenset(output for output in case.outputs if _is_text(case, output))
    for said, change in _WRITTEN if texts else ():
        yield Variant(
            "text_format",
            f"text is served {said}",
            changed(partial(_respelled, change)),
            {"spelling": said},
            outputs=texts,
            fix=f"Serve text as it is computed: it was served {said}.",
        )
    for output in sorted(texts):
        longest = _cut_to(case, output)
        if longest is not None:
            yield Variant(
                "text_format",
                f"{output} is served cut to {longest} characters",
                changed(partial(pc.utf8_slice_codeunits, start=0, stop=longest), output),
                {"spelling": "cut", "characters": longest},
                outputs=frozenset({output}),
                fix=f"Make room for the whole text of {output}: whatever carries it holds {longest} characters.",
                bits=LEARNED_BITS,
            )


def _is_text(case: Case, output: str) -> bool:
    dtype = dtype_of(case, output)
    return (dtype.item or dtype).kind == "string"


def _respelled(change: Change, array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        return of_items(array, change) if pa.types.is_string(array.type.value_type) else array
    return change(array) if pa.types.is_string(array.type) else array


def _cut_to(case: Case, output: str) -> int | None:
    """Return the longest length of what was served where it is the beginning of what is right."""
    reference, served = differing(case, output)
    if not pa.types.is_string(reference.type):
        return None
    pairs = zip(reference.to_pylist(), served.to_pylist(), strict=True)
    return max((len(cut) for whole, cut in pairs if whole.startswith(cut)), default=None)


TEXT_FORMAT = Hypothesis("text_format", "text was spelled otherwise, or cut off", text_format, most_bits=3.0)
