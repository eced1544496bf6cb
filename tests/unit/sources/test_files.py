"""Which files a path, a folder or a glob means, and which are refused."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import SourceDataError, SourceMissingError, SpineError
from featurestore.offline.spine import _from_files
from featurestore.sources.files import find_files


def names(folder, path="", kind="parquet"):
    found = find_files(f"{folder}{path}", kind=kind, base_folder=None, where="source 's'")
    return [file.path.relative_to(folder).as_posix() for file in found]


def write(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), folder / name)


PATTERNS = ["", "/*", "/**", "/**/*", "/**/*.parquet"]


@pytest.mark.parametrize("path", PATTERNS)
def test_hidden_files_and_folders_are_left_out_of_folders_and_globs_alike(tmp_path, path):
    write(
        tmp_path,
        "part-0.parquet",
        "day=1/part-1.parquet",
        "_temporary/0/task_1/part-2.parquet",
        ".staging/part-3.parquet",
        "day=1/_tmp/part-4.parquet",
        "_part-5.parquet",
        ".part-6.parquet",
    )
    assert sorted(names(tmp_path, path)) == ["day=1/part-1.parquet", "part-0.parquet"]


def test_a_partition_whose_column_begins_with_an_underscore_is_not_hidden(tmp_path):
    write(tmp_path, "_day=1/part-0.parquet")
    assert names(tmp_path) == names(tmp_path, "/*/*.parquet") == ["_day=1/part-0.parquet"]


def test_a_hidden_name_that_a_glob_spells_is_meant(tmp_path):
    write(tmp_path, "_archive/a.parquet", "_b.parquet", "c.parquet")
    assert names(tmp_path, "/_arch*/*.parquet") == ["_archive/a.parquet"]
    assert names(tmp_path, "/_*.parquet") == ["_b.parquet"]
    assert names(tmp_path, "/_archive/*") == ["_archive/a.parquet"]


def test_a_file_with_several_names_counts_once_under_its_own(tmp_path):
    write(tmp_path, "data/day=2/b.parquet")
    (tmp_path / "data/day=1").mkdir()
    (tmp_path / "data/day=1/a.parquet").symlink_to(tmp_path / "data/day=2/b.parquet")
    (tmp_path / "data/day=3").symlink_to(tmp_path / "data/day=2")
    for path in ("/data", "/data/*", "/data/*/*.parquet", "/data/**"):
        assert names(tmp_path, path) == ["data/day=2/b.parquet"]
    assert names(tmp_path, "/data/day=1/a.parquet") == ["data/day=1/a.parquet"]


def delta(folder):
    write(folder, "part-0.parquet", "day=1/part-1.parquet")
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log/00000000000000000000.json").write_text(json.dumps({"add": {"path": "part-0.parquet"}}))


def iceberg(folder):
    write(folder, "part-0.parquet", "day=1/part-1.parquet", "data/part-2.parquet")
    (folder / "metadata").mkdir()
    (folder / "metadata/00000-9c12d441-03fe-4693-9a96-a0705ddf69c1.metadata.json").write_text("{}")


def hudi(folder):
    write(folder, "part-0.parquet", "day=1/part-1.parquet")
    (folder / ".hoodie").mkdir()


@pytest.mark.parametrize(("make", "name"), [(delta, "Delta Lake"), (iceberg, "Apache Iceberg"), (hudi, "Apache Hudi")])
@pytest.mark.parametrize(
    "path",
    ["/lake/t", "/lake/t/*", "/lake/t/*.parquet", "/lake/t/day=1", "/lake/t/day=*/*.parquet", "/lake", "/**/*.parquet"],
)
def test_a_table_of_a_lakehouse_is_refused_by_name(tmp_path, make, name, path):
    """Whether it is named itself, a folder of it, a pattern in it, or a folder above it."""
    make(tmp_path / "lake/t")
    with pytest.raises(SourceDataError, match=f"t' is a table of {name}") as caught:
        names(tmp_path, path)
    assert caught.value.code == "lakehouse-table"
    assert "FrameSource" in caught.value.hint


def test_a_table_behind_a_link_is_refused(tmp_path):
    delta(tmp_path / "lake/t")
    (tmp_path / "today").symlink_to(tmp_path / "lake/t/day=1")
    with pytest.raises(SourceDataError, match="is a table of Delta Lake"):
        names(tmp_path, "/today")


@pytest.mark.parametrize("path", ["t", "t/part-0.parquet", "."])
def test_a_table_of_a_lakehouse_is_no_spine(tmp_path, path):
    delta(tmp_path / "t")
    with pytest.raises(SpineError, match="is a table of Delta Lake"):
        _from_files(tmp_path / path)


def test_a_folder_of_metadata_of_another_kind_makes_no_table(tmp_path):
    write(tmp_path, "a.parquet")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/notes.json").write_text("{}")
    assert names(tmp_path) == ["a.parquet"]


def test_a_folder_with_hidden_files_alone_holds_nothing(tmp_path):
    write(tmp_path, "_temporary/a.parquet")
    for path in ("", "/*"):
        with pytest.raises(SourceMissingError):
            names(tmp_path, path)


def test_a_spine_of_far_dates_in_int96_keeps_them(tmp_path):
    far = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1)]
    table = pa.table({"valid_to": pa.array(far, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "spine.parquet", use_deprecated_int96_timestamps=True)
    assert _from_files(tmp_path / "spine.parquet").column("valid_to").to_pylist() == far
