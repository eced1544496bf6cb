"""Arrow tables as pandas frames: the same for training sets and answers, so that a model sees the same dtypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a pandas frame.

    Integers and booleans with nulls stay what they are (``Int64``, ``boolean``) rather than becoming floats and
    objects; without nulls they are NumPy's.
    """
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    for name, dtype in _nullable(table).items():
        frame[name] = table.column(name).to_pandas(types_mapper={table.schema.field(name).type: dtype}.get)
    return frame


def _nullable(table: pa.Table) -> dict[str, object]:
    """Return pandas' dtypes for the columns that NumPy has no null for."""
    import pandas as pd
    import pyarrow as pa

    found: dict[str, object] = {}
    for field in table.schema:
        if table.column(field.name).null_count == 0:
            continue
        if pa.types.is_boolean(field.type):
            found[field.name] = pd.BooleanDtype()
        elif pa.types.is_integer(field.type):
            # Arrow says "uint8" where pandas' nullable dtype is "UInt8".
            found[field.name] = pd.api.types.pandas_dtype(str(field.type).replace("i", "I", 1).replace("u", "U", 1))
    return found
