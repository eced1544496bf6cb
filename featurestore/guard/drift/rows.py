"""Rows of a serving log or of a training set as distributions are counted of them.

A column per feature, instants and dates as ages; and a column per entity that features are about, with the bucket of
its key, so that rows about one entity are known to be so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.guard.comparing.sampling import buckets
from featurestore.guard.drift.distribution import AGED, to_ages
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import KEY_PREFIX, VALUE_PREFIX, key_column, names_of, value_column


@dataclass(frozen=True)
class Layout:
    """Which columns are counted.

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
        """Return what is counted of a service; on-demand features are about all its entities together."""
        uses = {column: use.keys for use in plan.uses for column in use.columns}
        keys = {column.name: column.dtype for column in plan.join_keys}
        about = {output.name: uses.get(output.column, tuple(keys)) for output in plan.outputs}
        return cls({output.name: output.dtype for output in plan.outputs}, keys, about)

    @property
    def entities(self) -> dict[str, str]:
        """By feature, the column with the bucket of its entity; those about no entity are left out."""
        return {name: _entity(keys) for name, keys in self.about.items() if keys}

    def of_log(self, table: pa.Table) -> pa.Table:
        """Return what is counted of a piece of the serving log."""
        names = names_of(VALUE_PREFIX, table.column_names)
        values = table.select([value_column(name) for name in names]).rename_columns(names)
        counted = self.features(values, table.column(AS_OF))
        keys = names_of(KEY_PREFIX, table.column_names)
        return self._with_entities(counted, table.select([key_column(key) for key in keys]).rename_columns(keys))

    def of_training_set(self, batch: pa.RecordBatch) -> pa.Table:
        """Return what is counted of rows of a training set."""
        table = pa.Table.from_batches([batch])
        return self._with_entities(self.features(table, table.column(AS_OF)), table)

    def features(self, values: pa.Table, as_of: pa.ChunkedArray) -> pa.Table:
        """Return the columns of features, without those that another definition gave another dtype.

        Args:
            values: Columns named as the features are, among others.
            as_of: The instants asked about.
        """
        columns = {}
        for name, dtype in self.dtypes.items():
            if name in values.column_names and values.schema.field(name).type == dtype.arrow:
                column = values.column(name)
                columns[name] = to_ages(column, dtype, as_of) if dtype.kind in AGED else column
        return pa.table(columns)

    def _with_entities(self, counted: pa.Table, rows: pa.Table) -> pa.Table:
        """Add the buckets of entities whose keys the rows have."""
        known = {field.name: field.type for field in rows.schema}
        for keys in sorted(set(self.about.values())):
            if keys and all(known.get(key) == self.keys[key].arrow for key in keys):
                found = buckets(((rows.column(key), self.keys[key]) for key in keys), rows=rows.num_rows)
                counted = counted.append_column(_entity(keys), pa.array(found))
        return counted


def _entity(keys: tuple[str, ...]) -> str:
    return f"entity of {', '.join(keys)}"
