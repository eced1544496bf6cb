"""The types of NumPy columns, and a column of instants: the names that every room uses for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
"""Whole numbers: values, offsets, codes, instants in microseconds."""

Floats = npt.NDArray[np.float64]
"""Floating-point values."""

Flags = npt.NDArray[np.bool_]
"""One truth per row."""

Bytes = npt.NDArray[np.uint8]
"""Bytes, and codes that fit in one, such as statuses."""

Words = npt.NDArray[np.uint64]
"""The 64-bit words that values are compared, hashed and stored by."""
