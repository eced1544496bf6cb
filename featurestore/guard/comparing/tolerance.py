"""Tolerances: how far apart numbers may lie and still pass. Such numbers are counted separately, never as equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags
from featurestore.core.dtypes import DType
from featurestore.guard.comparing.difference import distances


@dataclass(frozen=True)
class Tolerance:
    """How far apart two numbers may lie; any of the three suffices.

    Attributes:
        absolute: Largest ``|current - reference|``, inclusive.
        relative: Largest ``|current - reference| / |reference|``, inclusive.
        ulps: Largest count of floats between the two, inclusive; for float64 only.
    """

    absolute: float = 0.0
    relative: float = 0.0
    ulps: int = 0

    def lets_pass(self, reference: pa.Array, current: pa.Array, dtype: DType) -> Flags:
        """Return which pairs of numbers lie near enough.

        Args:
            reference: Numbers of one road, no nulls.
            current: Numbers of the other.
            dtype: Dtype of the numbers.
        """
        absolute, size, ulps = distances(reference, current, dtype)
        near = (absolute <= self.absolute) | (absolute <= self.relative * size)
        if ulps is not None:
            near |= ulps <= self.ulps
        return np.asarray(near, dtype=np.bool_)

    def __str__(self) -> str:
        parts = [
            f"{self.absolute:g}" if self.absolute else "",
            f"{self.relative:.3g} of the value" if self.relative else "",
            f"{self.ulps} ulps" if self.ulps else "",
        ]
        return " or ".join(filter(None, parts)) or "nothing"
