"""Reading the raw rows of sources as Arrow, for training and for online state alike."""

from featurestore.sources.opening import ingest_column, open_scan, open_scans
from featurestore.sources.outside import read_raw
from featurestore.sources.rows import SourceFile
from featurestore.sources.scan import Scan, SourceStats
from featurestore.sources.schema import column_names, read_schema
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
