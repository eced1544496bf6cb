"""The columns of a serving log or of a training set that are counted, and the count of independent rows.

There is one column per feature, with instants and dates as ages, and one column per entity that features are about,
with the bucket of its key. Rows about one entity have almost the same values: tests that take them for independent
rows report drift where there is only chance. So every sample is worth the count of independent rows that says as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import DType
from featurestore.guard.comparing.sampling import BUCKETS, buckets
from featurestore.guard.drift.distribution import AGED, to_ages
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import KEY_PREFIX, VALUE_PREFIX, key_column, names_of, value_column

Batch: TypeAlias = pa.Table | pa.RecordBatch

Rows = Callable[[], Iterable[Batch]]
"""Reads a sample from its beginning, in batches with one column per feature; may be called twice.

Rows of a batch that lacks the column of a feature are not rows of that feature. Instants and dates are ages, see
``to_ages``.
"""


@dataclass(frozen=True)
class Layout:
    """The columns that are counted of a service.

    Attributes:
        dtypes: Dtypes of the features.
        keys: Dtypes of the key columns.
        about: By feature, the key columns of the entity it is about.
    """

    dtypes: Mapping[str, DType]
    keys: Mapping[str, DType]
    about: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, plan: Plan) -> Layout:
        """Return the layout of a plan; on-demand features are about all its entities together."""
        uses = {column: use.keys for use in plan.uses for column in use.columns}
        keys = {column.name: column.dtype for column in plan.join_keys}
        about = {output.name: uses.get(output.column, tuple(keys)) for output in plan.outputs}
        return cls({output.name: output.dtype for output in plan.outputs}, keys, about)

    @property
    def entities(self) -> dict[str, str]:
        """By feature, the column with the bucket of its entity; features about no entity are left out."""
        return {name: _entity(keys) for name, keys in self.about.items() if keys}

    def of_log(self, table: pa.Table) -> pa.Table:
        """Return the columns to count of a table of the serving log."""
        names = names_of(VALUE_PREFIX, table.column_names)
        values = table.select([value_column(name) for name in names]).rename_columns(names)
        features = self.features(values, table.column(AS_OF))
        keys = names_of(KEY_PREFIX, table.column_names)
        return self._with_entities(features, table.select([key_column(key) for key in keys]).rename_columns(keys))

    def of_training_set(self, batch: pa.RecordBatch) -> pa.Table:
        """Return the columns to count of a batch of a training set."""
        table = pa.Table.from_batches([batch])
        return self._with_entities(self.features(table, table.column(AS_OF)), table)

    def features(self, values: pa.Table, as_of: pa.ChunkedArray) -> pa.Table:
        """Return the columns of features, without those to which another definition gave another dtype.

        Args:
            values: Columns named like the features, and possibly others.
            as_of: The instants asked about.
        """
        columns = {}
        for name, dtype in self.dtypes.items():
            if name in values.column_names and values.schema.field(name).type == dtype.arrow:
                column = values.column(name)
                columns[name] = to_ages(column, dtype, as_of) if dtype.kind in AGED else column
        return pa.table(columns)

    def _with_entities(self, features: pa.Table, rows: pa.Table) -> pa.Table:
        """Append the buckets of the entities whose keys the rows have."""
        types = {field.name: field.type for field in rows.schema}
        for keys in sorted(set(self.about.values())):
            if keys and all(types.get(key) == self.keys[key].arrow for key in keys):
                of_keys = buckets(((rows.column(key), self.keys[key]) for key in keys), rows=rows.num_rows)
                features = features.append_column(_entity(keys), pa.array(of_keys))
        return features


def _entity(keys: tuple[str, ...]) -> str:
    return f"entity of {', '.join(keys)}"


@dataclass
class EntityRows:
    """Rows per entity of a sample, by the bucket of its key: memory is bounded for any count of entities.

    Attributes:
        rows: Rows per bucket.
    """

    rows: Ints = field(default_factory=lambda: np.zeros(BUCKETS, dtype=np.int64))

    def add(self, of_rows: Ints) -> None:
        """Count more rows, given by their buckets."""
        distinct, counts = np.unique(of_rows, return_counts=True)
        self.rows[distinct] += counts

    @property
    def worth(self) -> float:
        """How many independent rows one row is worth: 1 if no entity has two rows, or if there are no rows.

        Source:
            Kish 1965, "Survey sampling": the effective size is the square of the sum over the sum of squares, here of
            rows per entity, as if all values of one entity were equal. If they are not, the true size is larger. The
            expected contribution of entities that share a bucket is subtracted from the sum of squares.
        """
        rows = self.rows[self.rows > 0].astype(np.float64)
        total = float(rows.sum())
        squares = (float(np.square(rows).sum()) - total * total / BUCKETS) / (1.0 - 1.0 / BUCKETS)
        return total / max(squares, total) if total else 1.0


class EntityCounter:
    """Counts rows per entity while a sample is read.

    Rows of a feature without a known entity column count as rows about different entities.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        """Create the counters.

        Args:
            columns: By feature, the column that holds the bucket of its entity, see ``sampling.buckets``.
        """
        self._columns = columns
        self._rows = {column: EntityRows() for column in columns.values()}
        self._is_read = False

    def counted(self, rows: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of a sample, and count them the first time that the sample is read."""
        is_first, self._is_read = not self._is_read, True
        for batch in rows:
            for column, counter in self._rows.items() if is_first else ():
                if column in batch.schema.names:
                    counter.add(batch.column(column).to_numpy())
            yield batch

    def worth(self, feature: str) -> float:
        """Return how many independent rows one row of a feature is worth."""
        return self._rows[self._columns[feature]].worth if feature in self._columns else 1.0
