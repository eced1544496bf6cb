"""Sources are stored where that is possible; where it is not, reading them back says what to do."""

from dataclasses import fields

import pytest

from featurestore.core.dtypes import INT64
from featurestore.core.errors import ConfigError, RegistryError
from featurestore.definitions.sources import CsvOptions, FileSource, FrameSource, Source, SqlSource
from featurestore.registry import Applied, read_source, source_draft

FILE = FileSource(
    "flights",
    path="data/*.csv",
    event_time="at",
    ingest_time="known_at",
    event_id="id",
    timezone="UTC",
    inclusive=True,
    stream=True,
    on_null="drop",
    format="csv",
    csv=CsvOptions(delimiter="|", null_values=("NA", ""), columns=("a", "b")),
    dtypes={"a": INT64, "b": "string"},
)
SQL = SqlSource("orders", url="sqlite:///orders.db", query="select 1", event_time="at", dtypes={"a": "int64"})


def stored(source):
    draft = source_draft(source)
    return Applied(draft.kind, draft.name, draft.fingerprint, draft.document, 0)


@pytest.mark.parametrize("source", [FILE, SQL], ids=["file", "sql"])
def test_what_is_read_back_is_what_was_written(source):
    read = read_source(stored(source))
    assert type(read) is type(source)
    for part in fields(source):
        written, found = getattr(source, part.name), getattr(read, part.name)
        assert found == ({k: str(v) for k, v in written.items()} if part.name == "dtypes" else written), part.name


def test_who_owns_a_source_is_no_change_of_it():
    other = FileSource("flights", path="x", event_time="at", owner="ops")
    assert source_draft(other) == source_draft(FileSource("flights", path="x", event_time="at", owner="us"))


def test_where_the_rows_lie_is_a_change():
    other = FileSource("flights", path="x", event_time="at")
    assert source_draft(other).fingerprint != source_draft(FileSource("flights", path="y", event_time="at")).fingerprint


def test_rows_in_memory_are_not_stored():
    source = FrameSource("events", frame=object(), event_time="at")
    with pytest.raises(ConfigError, match=r"source 'events': its rows are in the memory.*Apply the definitions"):
        read_source(stored(source))


def test_passwords_are_not_stored():
    source = SqlSource("orders", url="postgresql://ann:secret@db/shop", table="orders", event_time="at")
    assert "secret" not in source_draft(source).document
    with pytest.raises(ConfigError, match="its URL holds a password"):
        read_source(stored(source))


def test_documents_of_another_version_are_refused():
    draft = source_draft(FILE)
    other = Applied(draft.kind, draft.name, draft.fingerprint, draft.document.replace('"version":1', '"version":2'), 0)
    with pytest.raises(RegistryError, match="stored by another version"):
        read_source(other)


def test_a_source_of_a_kind_of_its_own_is_not_stored():
    with pytest.raises(ConfigError, match="it is of a kind of its own"):
        read_source(stored(Source("own", event_time="at")))


def test_a_url_that_is_none_is_the_readers_to_judge():
    assert read_source(stored(SqlSource("s", url="nonsense", table="t", event_time="at"))).url == "nonsense"
