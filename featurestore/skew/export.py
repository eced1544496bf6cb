"""Every value that differs, as Parquet: for those who want to look at more than a report shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import StorageError
from featurestore.kernels.events import Status
from featurestore.skew.causes.catalogue import UNEXPLAINED
from featurestore.skew.explaining import Explained
from featurestore.skew.slices import as_text

FILE_NAME = "mismatches.parquet"
"""Name of the file within the folder."""

SCHEMA = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("as_of", pa.timestamp("us", tz="UTC")),
        ("entity", pa.string()),
        ("feature", pa.string()),
        ("reference", pa.string()),
        ("current", pa.string()),
        ("reference_status", pa.string()),
        ("current_status", pa.string()),
        ("cause", pa.string()),
        ("assumption", pa.string()),
    ]
)
"""Columns: one row per value that differs. ``entity`` is the key as text, ``name=value`` with commas between."""

_NAMES = pa.array([status.name for status in Status])


def write_mismatches(folder: Path, explained: Sequence[Explained]) -> Path:
    """Write all values that differ and were examined, with their causes.

    Args:
        folder: Where the file goes; made if it is not there.
        explained: What was found, plan by plan.

    Returns:
        The file.

    Raises:
        StorageError: It cannot be written.
    """
    path = folder / FILE_NAME
    unfinished = folder / f".{FILE_NAME}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(unfinished, SCHEMA) as writer:
            for table in (table for one in explained for table in _tables(one)):
                writer.write_table(table)
        unfinished.replace(path)
    except OSError as error:
        hint = "Check the path, its rights and the disk."
        raise StorageError(f"cannot write {path}: {error}", where="mismatches", hint=hint) from error
    return path


def _tables(explained: Explained) -> Iterator[pa.Table]:
    """Yield one table per feature."""
    case, proof = explained.case, explained.proof
    log, plan = case.world.log, case.world.plan
    causes = [*(variant.cause for variant in proof.variants), UNEXPLAINED]
    said = [*(variant.said for variant in proof.variants), ""]
    for name, differs in case.differs.items():
        rows = np.flatnonzero(differs)
        if len(rows) == 0:
            continue
        places = pa.array(rows)
        owner = proof.owner[name][rows]
        keys = [
            as_text(log.column(f"key__{key.name}").combine_chunks().take(places)).to_pylist() for key in plan.join_keys
        ]
        entities = [
            ", ".join(f"{key.name}={value}" for key, value in zip(plan.join_keys, values, strict=True))
            for values in zip(*keys, strict=True)
        ]
        reference, served = case.reference[name], case.served[name]
        arrays = [
            pa.array([plan.fingerprint] * len(rows)),
            log.column("request_id").combine_chunks().take(places),
            log.column("row").combine_chunks().take(places),
            log.column("as_of").combine_chunks().take(places),
            pa.array(entities, pa.string()),
            pa.array([name] * len(rows)),
            as_text(reference.values.take(places)),
            as_text(served.values.take(places)),
            _NAMES.take(pa.array(reference.statuses[rows])),
            _NAMES.take(pa.array(served.statuses[rows])),
            pa.array([causes[number] for number in owner.tolist()]),
            pa.array([said[number] for number in owner.tolist()]),
        ]
        yield pa.Table.from_arrays(arrays, schema=SCHEMA)
