"""Training sets on disk: read back as they were built; a changed byte is found."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import StorageError, TrainingSetError
from featurestore.offline.dataset import MANIFEST_NAME, TrainingSet
from featurestore.offline.digest import content_digest
from featurestore.offline.manifest import FORMAT_VERSION, Manifest
from tests.unit.offline.samples import spine, store_of


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    with store_of(folder) as store:
        store.training_set("model", spine(), folder / "set", statuses=True)
    return folder / "set"


@pytest.fixture
def built(built_once, tmp_path):
    """A copy that a test may damage."""
    (tmp_path / "set").mkdir()
    for path in built_once.iterdir():
        (tmp_path / "set" / path.name).write_bytes(path.read_bytes())
    return TrainingSet.open(tmp_path / "set")


def test_it_reads_the_columns_asked_for_in_their_order(built):
    table = built.to_arrow(["spending__n", "user"])
    assert table.column_names == ["spending__n", "user"]
    assert table.num_rows == built.row_count == 55


def test_scan_gives_the_rows_in_batches(built):
    batches = list(built.scan(["user"], rows=10))
    assert max(batch.num_rows for batch in batches) == 10
    assert pa.Table.from_batches(batches).equals(built.to_arrow(["user"]))


def test_pandas_keeps_integers_and_booleans_with_nulls(built, tmp_path):
    table = pa.table(
        {"whole": [1, None], "flag": [True, None], "small": pa.array([1, None], pa.uint8()), "full": [1, 2]}
    )
    pq.write_table(table, built.path / built.manifest.files[0].path)
    frame = built.to_pandas()
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "boolean", "UInt8", "int64"]
    assert frame["whole"][0] == 1
    assert frame["whole"][1] is pd.NA


def test_pandas_and_arrow_hold_the_same(built):
    frame = built.to_pandas()
    assert frame["user"].tolist() == built.to_arrow().column("user").to_pylist()
    totals = [None if np.isnan(value) else value for value in frame["spending__total"].tolist()]
    assert totals == built.to_arrow().column("spending__total").to_pylist()


def test_an_unknown_column_is_named_with_those_there_are(built):
    for read in (built.to_arrow, built.to_pandas, lambda columns: list(built.scan(columns))):
        with pytest.raises(TrainingSetError, match=r"no column 'usr'(?s:.*)user") as caught:
            read(["usr"])
        assert caught.value.code == "unknown-column"


def test_what_was_built_verifies(built):
    built.verify()


def test_a_changed_byte_is_found_wherever_it_is(built):
    """A byte of a value changes the digest or what Parquet can read; one that no value depends on may go unnoticed."""
    file = built.path / built.manifest.files[0].path
    sound = file.read_bytes()
    reference = built.to_arrow()
    found, unnoticed = 0, 0
    for at in range(4, len(sound) - 8, max(1, len(sound) // 150)):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        try:
            built.verify()
        except TrainingSetError:
            found += 1
        else:
            assert built.to_arrow().equals(reference)
            unnoticed += 1
    assert found > unnoticed


def test_a_changed_value_is_found(built):
    file = built.path / built.manifest.files[0].path
    table = pq.read_table(file)
    place = table.column_names.index("spending__n")
    counts = table.column(place).to_pylist()
    pq.write_table(table.set_column(place, "spending__n", pa.array([counts[0] + 1, *counts[1:]])), file)
    with pytest.raises(TrainingSetError, match=r"content has the digest [0-9a-f]{64}, the manifest says"):
        built.verify()


def test_missing_rows_are_counted(built):
    file = built.path / built.manifest.files[0].path
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(TrainingSetError, match=r"it has 54 rows, the manifest says 55"):
        built.verify()


def test_a_missing_file_is_named(built):
    (built.path / "part-00000.parquet").unlink()
    for read in (built.to_arrow, built.verify):
        with pytest.raises(TrainingSetError, match=r"'part-00000.parquet' is missing"):
            read()


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing more"])
def test_a_file_that_is_no_parquet_is_named(built, content):
    (built.path / "part-00000.parquet").write_bytes(content)
    for read in (built.to_arrow, built.verify, lambda: list(built.scan())):
        with pytest.raises(TrainingSetError, match=r"'part-00000.parquet' is not sound Parquet"):
            read()


def test_a_folder_without_a_manifest_is_no_training_set(tmp_path):
    with pytest.raises(TrainingSetError, match=r"the folder does not exist"):
        TrainingSet.open(tmp_path / "nothing")
    with pytest.raises(TrainingSetError, match=r"it has no manifest"):
        TrainingSet.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrainingSetError, match=r"the folder does not exist"):
        TrainingSet.open(tmp_path / "file")


def test_a_manifest_that_cannot_be_read_is_named(built):
    (built.path / MANIFEST_NAME).unlink()
    (built.path / MANIFEST_NAME).mkdir()
    with pytest.raises(StorageError, match=r"the manifest cannot be read"):
        TrainingSet.open(built.path)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff", b'{"service": 1}'])
def test_a_damaged_manifest_is_named(built, text):
    (built.path / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(TrainingSetError, match=r"the manifest cannot be read") as caught:
        TrainingSet.open(built.path)
    assert str(built.path) in caught.value.where


def test_a_manifest_of_another_version_is_refused(built):
    text = (built.path / MANIFEST_NAME).read_text()
    other = text.replace(f'"format_version": {FORMAT_VERSION}', f'"format_version": {FORMAT_VERSION + 1}')
    assert other != text
    with pytest.raises(TrainingSetError, match=rf"has version {FORMAT_VERSION + 1}, this library reads"):
        Manifest.from_json(other)


def test_a_manifest_reads_back_as_it_was_written(built):
    assert Manifest.from_json(built.manifest.to_json()) == built.manifest


def test_the_manifest_says_what_was_asked_read_and_made(built):
    manifest = built.manifest
    assert manifest.service == "model"
    assert manifest.read_plan().fingerprint == manifest.fingerprint
    assert set(manifest.view_fingerprints) == {"spending"}
    assert manifest.spine_columns == ("label", "user", "as_of", "budget")
    assert manifest.spine_digest == content_digest(spine())
    assert manifest.row_count == 55
    (source,) = manifest.sources
    assert (source.name, source.view, source.row_count, source.null_rows) == ("orders", "spending", 400, 0)
    assert source.files[0].path.endswith("orders.parquet")
    assert source.newest_event_time == source.newest_ingest_time
    assert manifest.content_digest == content_digest(built.to_arrow())
    assert manifest.has_statuses
    assert not manifest.hindsight
    assert manifest.created_at == "2024-06-01T00:00:00Z"
    assert {"python", "pyarrow", "numpy", "numba"} <= manifest.libraries.keys()


def test_every_feature_has_a_profile_with_its_statuses(built):
    table = built.to_arrow()
    names = [feature.name for feature in built.manifest.features]
    assert names == ["spending__largest", "spending__n", "spending__shop", "spending__total", "left__over"]
    for name in names:
        profile = built.manifest.profile(name)
        statuses = table.column(f"{name}__status").to_pylist()
        assert profile.statuses == {status: statuses.count(status) for status in set(statuses)}
        assert profile.null_count == table.column(name).null_count
    with pytest.raises(KeyError):
        built.manifest.profile("user")
