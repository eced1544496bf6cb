"""How much it says that a value comes out: bits, by how rare the value is among those of its feature.

That an assumption gives ``true`` where ``true`` was served says next to nothing: every second guess does. That it gives
a sum of floats to the bit says a lot. What a value is worth to an explanation is therefore the logarithm of how seldom
another assumption would give it by chance, estimated from all values of the feature on both roads.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Floats, Ints
from featurestore.core.statuses import NOT_FOUND
from featurestore.guard.causes.model import Case
from featurestore.guard.world.world import Values
from featurestore.kernels.words import validity

MOST_BITS = 10.0
"""Most that any value is worth, so that a feature of which all values are distinct does not outweigh everything."""


def surprises(case: Case) -> dict[str, Floats]:
    """Return per output and row how many bits it saves to explain what was served, at most ``MOST_BITS``.

    A value that is seen ``c`` times among ``n`` is worth ``log2(n / c)``. Of those seen once, most would not be seen
    at all in other rows if hardly any is seen twice: then they are worth more than ``log2(n)``. That an entity was not
    found is no value among others, and worth the most.

    Args:
        case: The rows, those that differ and some that do not.

    Source:
        Good 1953, "The population frequencies of species and the estimation of population parameters", for values
        that are seen once.
    """
    return {name: _bits(case, name) for name in case.differs}


def _bits(case: Case, name: str) -> Floats:
    """Rate what was served in each row by its frequency among all values, of both roads where they differ."""
    rows = np.flatnonzero(case.differs[name])
    codes = _codes(case.reference[name], case.served[name])
    count = len(case.world)
    pool = np.concatenate([codes[:count], codes[count:][rows]])
    times = np.bincount(pool, minlength=int(codes.max(initial=0)) + 1)
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    expected = times.astype(np.float64)
    expected[times == 1] = min(1.0, (2 * twice + 1) / max(once, 1))
    # A value that holds is that of the reference, and is in the pool by it.
    own = np.maximum(expected[codes[count:]], 1 / max(once, 1))
    bits = np.minimum(math.log2(max(len(pool), 1)) - np.log2(own), MOST_BITS)
    return np.where(case.served[name].statuses == NOT_FOUND, MOST_BITS, bits)


def _codes(reference: Values, served: Values) -> Ints:
    """Number equal values alike: those of the reference, then those served; nulls by their status."""
    both = [reference, served]
    if reference.values.type != served.values.type or pa.types.is_nested(reference.values.type):
        texts = [pa.array([repr(value) for value in one.values.to_pylist()], pa.string()) for one in both]
    else:
        texts = [one.values for one in both]
    encoded = pa.concat_arrays(texts).dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    is_null = np.concatenate([~validity(one.values) for one in both])
    statuses = np.concatenate([one.statuses for one in both]).astype(np.int64)
    return np.where(is_null, len(encoded.dictionary) + statuses, codes)
