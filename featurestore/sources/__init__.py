"""Reading the raw rows of sources as Arrow, for both roads."""

from featurestore.sources.opening import (
    column_names,
    ingest_column,
    open_scan,
    open_scans,
    read_raw,
    read_schema,
)
from featurestore.sources.rows import SourceFile
from featurestore.sources.scan import Scan, SourceStats
from featurestore.sources.settings import ReadSettings

__all__ = [
    "ReadSettings",
    "Scan",
    "SourceFile",
    "SourceStats",
    "column_names",
    "ingest_column",
    "open_scan",
    "open_scans",
    "read_raw",
    "read_schema",
]
