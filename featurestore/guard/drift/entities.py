"""How many rows count: rows about one entity say little more than one of them.

An entity that is asked about forty times has forty rows with almost the same values. Tests that take them for
independent call chance drift, so they are given the count of independent rows that says as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.guard.comparing.sampling import BUCKETS

Batch: TypeAlias = pa.Table | pa.RecordBatch


@dataclass
class EntityRows:
    """Rows per entity of a sample, by the bucket of its key: bounded memory for any number of entities.

    Attributes:
        rows: Rows per bucket.
    """

    rows: Ints = field(default_factory=lambda: np.zeros(BUCKETS, dtype=np.int64))

    def add(self, buckets: Ints) -> None:
        """Count more rows."""
        found, counts = np.unique(buckets, return_counts=True)
        self.rows[found] += counts

    @property
    def worth(self) -> float:
        """How many independent rows one row is worth: 1 if no entity has two rows, or if there are none.

        Source:
            Kish 1965, "Survey sampling": the effective size is the square of the sum over the sum of squares, here of
            rows per entity, as if all values of one entity were equal. Where they are not it is less than could be had.
            What entities that share a bucket add to the sum of squares is taken out as it is to be expected.
        """
        rows = self.rows[self.rows > 0].astype(np.float64)
        total = float(rows.sum())
        squares = (float(np.square(rows).sum()) - total * total / BUCKETS) / (1.0 - 1.0 / BUCKETS)
        return total / max(squares, total) if total else 1.0


class Entities:
    """Counts rows per entity while a sample is read.

    Rows of a feature for which no column is known are taken for rows about different entities.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        """Take the columns of the sample that hold buckets of entities, as ``sampling.buckets`` gives them.

        Args:
            columns: By feature, the one of the entity that its value is about.
        """
        self._columns = columns
        self._rows = {column: EntityRows() for column in columns.values()}
        self._is_read = False

    def seen(self, rows: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of a sample, and count them the first time that they are read."""
        is_first, self._is_read = not self._is_read, True
        for batch in rows:
            for column, found in self._rows.items() if is_first else ():
                if column in batch.schema.names:
                    found.add(batch.column(column).to_numpy())
            yield batch

    def worth(self, feature: str) -> float:
        """Return how many independent rows one row of a feature is worth."""
        return self._rows[self._columns[feature]].worth if feature in self._columns else 1.0
