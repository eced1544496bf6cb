"""All values that differ, as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.core.columns import Flags, Ints
from featurestore.core.errors import StorageError
from featurestore.guard.audit.slices import as_text
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.causes.explanation import Proof
from featurestore.guard.causes.model import Case, cause_text
from featurestore.guard.comparing.compare import status_names, unread_texts
from featurestore.guard.world.world import Values
from featurestore.offline.build import Features
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import REQUEST_ID, ROW, key_column, status_column, value_column
from featurestore.storage.files import local_target, make_file, make_folder

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
"""Columns; one row per value that differs. ``entity`` is the key as text, ``name=value`` separated by commas. ``cause``
is empty if causes were not proven, and if the served text is not a value of the feature."""


class MismatchFile:
    """A context manager that writes the file. The file appears only if the block ends without an error."""

    def __init__(self, folder: Path) -> None:
        """Choose the folder, which is created if it does not exist."""
        self._path = local_target(folder, where="mismatches") / FILE_NAME
        self._unfinished = folder / f".{FILE_NAME}.unfinished"
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> MismatchFile:
        """Create the file under a temporary name.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._storage_errors():
            make_folder(self._unfinished.parent)
            make_file(self._unfinished)
            self._writer = pq.ParquetWriter(self._unfinished, SCHEMA)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Move the file to its place, or remove it after an error.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._storage_errors():
            if self._writer is not None:
                self._writer.close()
            if kind is None:
                self._unfinished.replace(self._path)
            else:
                self._unfinished.unlink(missing_ok=True)

    def add_unexamined(self, plan: Plan, log: pa.Table, expected: Features, differs: Mapping[str, Flags]) -> None:
        """Write values that differ and whose causes are not proven.

        Args:
            plan: The plan that answered.
            log: Rows of its log.
            expected: Offline values of the rows.
            differs: Per output the rows to write.
        """
        for name, flags in differs.items():
            rows = np.flatnonzero(flags)
            if len(rows):
                served = log.column(value_column(name)).combine_chunks()
                codes = log.column(status_column(name)).combine_chunks().to_numpy(zero_copy_only=False)
                reference = Values(expected.values[name], expected.statuses[name])
                blank = pa.array([""] * len(rows))
                self._add(_table(plan, name, log, rows, reference, Values(served, codes), blank, blank))

    def add(self, case: Case, proof: Proof) -> None:
        """Write examined values with their causes."""
        causes = pa.array([*(cause_text(assumption.cause) for assumption in proof.assumptions), UNEXPLAINED])
        assumptions = pa.array([*(assumption.statement for assumption in proof.assumptions), ""])
        for name, differs in case.differs.items():
            rows = np.flatnonzero(differs)
            if len(rows):
                owner = proof.owner[name][rows]
                place = pa.array(np.where(owner < 0, len(proof.assumptions), owner))
                cause, assumption = causes.take(place), assumptions.take(place)
                values = case.reference[name], case.served[name]
                self._add(_table(case.world.plan, name, case.world.log, rows, *values, cause, assumption))

    def _add(self, table: pa.Table) -> None:
        assert self._writer is not None
        with self._storage_errors():
            self._writer.write_table(table)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "Check the path, its permissions and the free space of the disk."
            raise StorageError(f"{self._path} cannot be written: {error}", where="mismatches", hint=hint) from error


def _table(
    plan: Plan,
    name: str,
    log: pa.Table,
    rows: Ints,
    reference: Values,
    served: Values,
    cause: pa.Array,
    assumption: pa.Array,
) -> pa.Table:
    places = pa.array(rows)
    keys = [
        pc.binary_join_element_wise(
            f"{key.name}=",
            as_text(log.column(key_column(key.name)).combine_chunks().take(places)).fill_null("None"),
            "",
        )
        for key in plan.join_keys
    ]
    arrays = [
        pa.repeat(pa.scalar(plan.fingerprint), len(rows)),
        log.column(REQUEST_ID).combine_chunks().take(places),
        log.column(ROW).combine_chunks().take(places),
        log.column(AS_OF).combine_chunks().take(places),
        pc.binary_join_element_wise(*keys, ", ").cast(pa.string()),
        pa.repeat(pa.scalar(name), len(rows)),
        as_text(reference.values.take(places)),
        pc.coalesce(unread_texts(log, name).take(places), as_text(served.values.take(places))),
        status_names(reference.statuses[rows]),
        status_names(served.statuses[rows]),
        cause,
        assumption,
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
