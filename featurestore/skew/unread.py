"""Values of a log that are no values of their features: where they are, and what was served.

A log of another system may hold anything. What is no value of a feature's dtype cannot be computed with; it stands as
null in the column of the value, and as text in a column beside it. Logs of this project have no such columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Flags = npt.NDArray[np.bool_]

_PREFIX = "unread__"


def unread_column(output: str) -> str:
    """Return the name of the column that holds what was served and is no value of a feature."""
    return f"{_PREFIX}{output}"


def unread_texts(log: pa.Table, output: str) -> pa.Array:
    """Return per row of a log the text of what was served where that is no value of a feature; null elsewhere."""
    name = unread_column(output)
    return log.column(name).combine_chunks() if name in log.column_names else pa.nulls(log.num_rows, pa.string())


def is_unread(log: pa.Table, output: str) -> Flags:
    """Tell per row of a log whether what was served is no value of a feature."""
    if unread_column(output) not in log.column_names:
        return np.zeros(log.num_rows, dtype=np.bool_)
    return np.asarray(unread_texts(log, output).is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
