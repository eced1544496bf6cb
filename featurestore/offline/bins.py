"""Where to cut numbers into bins."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

Array = TypeVar("Array", bound=npt.NDArray[Any])


def place_edges(ordered: Array, wanted: int) -> Array:
    """Return lower edges of cells of about equal weight.

    Few different values get a cell each. A value that weighs as much as two cells gets one of its own, and the others
    are cut evenly; so neither a feature of mostly zeros nor one of whole numbers ends in one cell.

    Args:
        ordered: Values, ascending, at least one.
        wanted: How many cells; there are fewer where values repeat, never more.

    Returns:
        Ascending edges without repeats, the smallest value first.
    """
    values, counts = np.unique(ordered, return_counts=True)
    if len(values) <= wanted:
        return cast(Array, values)
    heavy = np.flatnonzero(counts * wanted >= 2 * len(ordered))
    light_counts = counts.copy()
    light_counts[heavy] = 0
    light = np.repeat(values, light_counts)
    cells = max(1, wanted * len(light) // len(ordered))
    places = np.arange(cells) * len(light) // cells
    behind = values[np.minimum(heavy + 1, len(values) - 1)]
    return cast(Array, np.unique(np.concatenate([values[:1], values[heavy], behind, light[places]])))
