"""Arrow tables as pandas frames, in the same dtypes for training sets and online answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a pandas frame.

    Integers and booleans with nulls keep their type (``Int64``, ``boolean``) instead of becoming floats and
    objects; without nulls they have NumPy's types.
    """
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    for name, dtype in _nullable(table).items():
        frame[name] = table.column(name).to_pandas(types_mapper={table.schema.field(name).type: dtype}.get)
    return frame


def _nullable(table: pa.Table) -> dict[str, object]:
    """Return pandas' nullable dtypes for the columns that hold nulls of a type without a NumPy null."""
    import pandas as pd
    import pyarrow as pa

    dtypes: dict[str, object] = {}
    for field in table.schema:
        if table.column(field.name).null_count == 0:
            continue
        if pa.types.is_boolean(field.type):
            dtypes[field.name] = pd.BooleanDtype()
        elif pa.types.is_integer(field.type):
            # Arrow says "uint8" where pandas' nullable dtype is "UInt8".
            dtypes[field.name] = pd.api.types.pandas_dtype(str(field.type).replace("i", "I", 1).replace("u", "U", 1))
    return dtypes
