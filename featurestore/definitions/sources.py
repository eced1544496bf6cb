"""Sources: the origin of events, and the meaning of their columns.

A source declares the rows and the columns of their times; ``featurestore.sources`` reads them. Arguments are kept as
written. The compiler checks them, so that all mistakes are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike, fspath
from typing import Any, Literal

from featurestore.core.temporal import Ambiguous, LocalClock, Nonexistent
from featurestore.definitions.arguments import explain_arguments
from featurestore.definitions.entities import DTypeLike

Format = Literal["parquet", "csv"]
OnNull = Literal["error", "drop"]

CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".csv.zst", ".csv.zip")
"""File names that are read as CSV unless the source names a format."""


_SOURCE_HINTS = {
    "timestamp_field": "Write event_time='…', the column of the instant at which a fact happened.",
    "event_timestamp_column": "Write event_time='…', the column of the instant at which a fact happened.",
    "created_timestamp_column": "Leave it out if it is the time of a load. If it is the instant at which the row became"
    " known to serving, write ingest_time='…'.",
    "file_format": "Write format='parquet' or format='csv'.",
    "field_mapping": "Use the source's own names: col('name').",
    "timestamp_column": "Write event_time='…', the column of the instant at which a fact happened.",
}


@dataclass(frozen=True, eq=False)
class Source:
    """The arguments that all sources have. Users write one of its subclasses.

    Attributes:
        name: Name of the source. It identifies the rows: their place may change, the name should not.
        event_time: Column of the instant at which a fact happened.
        ingest_time: Column of the instant at which it became known; ``None`` means that it is the event time.
        event_id: Column that identifies an event across deliveries (the earliest ingest time wins); ``None`` means that
            every row is its own event.
        timezone: Zone in which naive timestamp columns are read, for instance ``"UTC"``; ``None`` refuses them.
        ambiguous: How a naive time is read that the zone's clocks show twice, in the night they are set back: as the
            ``"earlier"`` or the ``"later"`` of the two instants, or not at all (``"raise"``). The default is later, so
            that no event counts before it happened.
        nonexistent: How a naive time is read that the zone's clocks never show, in the night they are set forward: not
            at all (``"raise"``), or as the instant at which the clocks are set (``"forward"``).
        inclusive: Whether an event is visible at its own instant, as in dimension tables where a row is valid from its
            instant on.
        stream: Whether events may be pushed to the source.
        on_null: Treatment of rows whose key or event time is null: ``"error"`` or ``"drop"`` (they are counted).
        owner: Person or team responsible for it; changes no value.
        description: Description for people; changes no value.
        tags: Further notes by name; changes no value.
    """

    name: str
    _: KW_ONLY
    event_time: str
    ingest_time: str | None = None
    event_id: str | None = None
    timezone: str | None = None
    ambiguous: Ambiguous = "later"
    nonexistent: Nonexistent = "raise"
    inclusive: bool = False
    stream: bool = False
    on_null: OnNull = "error"
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def clock(self) -> LocalClock | None:
        """How naive timestamps are read; ``None`` refuses them."""
        return None if self.timezone is None else LocalClock(self.timezone, self.ambiguous, self.nonexistent)


@dataclass(frozen=True)
class CsvOptions:
    """How the text of CSV files is parsed.

    Attributes:
        delimiter: Character between values; ``None`` detects it.
        header: Whether the first line holds the column names.
        quote: The character that quotes values.
        null_values: Texts that mean null, kept sorted. In columns of numbers, booleans, dates and instants ``NA``,
            ``N/A``, ``NULL``, ``None`` and similar texts mean null, too.
        columns: Column names, for files without a header.
        encoding: Encoding of the file by its Python name, such as ``"latin-1"`` or ``"cp1252"``.
        comment: Character that begins comment lines; empty means that only lines with ``#`` above the header are
            comments.
    """

    delimiter: str | None = None
    header: bool = True
    quote: str = '"'
    null_values: tuple[str, ...] = ("",)
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    comment: str = ""

    def __post_init__(self) -> None:
        nulls = (self.null_values,) if isinstance(self.null_values, str) else self.null_values
        object.__setattr__(self, "null_values", tuple(sorted(set(nulls))))
        object.__setattr__(self, "columns", tuple(self.columns))


@explain_arguments(_SOURCE_HINTS)
@dataclass(frozen=True, eq=False, kw_only=True)
class FileSource(Source):
    """Events in Parquet or CSV files.

    Attributes:
        path: A path, a glob (``"data/flights/*.parquet"``) or a URL that DuckDB reads. A relative path counts from the
            folder of the configuration file, or, of ``FeatureStore.local``, from the working directory.
        format: ``"parquet"`` or ``"csv"``; by default the format of the file name.
        csv: How CSV text is parsed.
        dtypes: Declared dtypes of columns, by name; the others come from the file, or are guessed from CSV text.
            Numbers that count the time since 1970 are declared with their unit: ``"timestamp[ms]"``.
    """

    path: str | PathLike[str]
    format: Format | None = None
    csv: CsvOptions = CsvOptions()
    dtypes: Mapping[str, DTypeLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.path, PathLike):
            object.__setattr__(self, "path", fspath(self.path))

    @property
    def file_format(self) -> Format:
        """The declared format, or that of the file name."""
        if self.format is not None:
            return self.format
        return "csv" if str(self.path).lower().endswith(CSV_SUFFIXES) else "parquet"


@explain_arguments(_SOURCE_HINTS)
@dataclass(frozen=True, eq=False, kw_only=True)
class SqlSource(Source):
    """Events in a database that SQLAlchemy reaches.

    Attributes:
        url: SQLAlchemy URL. The place of the rows changes no value, so it is in no plan and in no fingerprint.
        table: Table or view, ``"schema.table"`` if need be. Give a table or a query.
        query: SQL text that returns the rows. It must return the same rows each time over the same data, so it cannot
            use ``now()`` or ``random()``.
        dtypes: Declared dtypes of columns, by name; the others come from the database. ``NUMERIC`` of a precision
            that no decimal has, or of none, is ``decimal(38,18)``. Numbers that count the time since 1970 are declared
            with their unit: ``"timestamp[ms]"``.
    """

    url: str = field(repr=False)
    table: str | None = None
    query: str | None = None
    dtypes: Mapping[str, DTypeLike] = field(default_factory=dict)

    @property
    def rows(self) -> str | None:
        """The query, or the name of the table."""
        return self.query if self.query is not None else self.table


@explain_arguments(_SOURCE_HINTS)
@dataclass(frozen=True, eq=False, kw_only=True)
class FrameSource(Source):
    """Events in memory: an object with ``__arrow_c_stream__``, or a pandas frame.

    Attributes:
        frame: The rows.
        dtypes: Declared dtypes of columns, by name; the others come from the frame. A pandas column of ``Decimal``
            objects has no precision and is ``decimal(38,18)``. Numbers that count the time since 1970 are declared
            with their unit: ``"timestamp[ms]"``.
    """

    frame: Any = field(repr=False)
    dtypes: Mapping[str, DTypeLike] = field(default_factory=dict)
