"""Training sets as a whole: the spine's rows in the spine's order, and one content whatever it is computed with."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import (
    SourceDataError,
    SourceMissingError,
    SpineError,
    UnknownServiceError,
)
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.offline.training_set import build_training_set
from featurestore.sources import ReadSettings
from tests.assertions import assert_same_table
from tests.unit.offline.samples import (
    INSTANT,
    NOW,
    START_US,
    events,
    plan_of,
    service_of,
    spine,
    store_of,
    write_events,
)


def build(folder, path, *, threads=2, memory_bytes=None, asked=None, **options):
    """Build under some resources, from some files."""
    (source,) = {view.source for view in service_of(path).features if hasattr(view, "source")}
    return build_training_set(
        plan_of(path),
        spine() if asked is None else asked,
        folder,
        sources={"orders": source},
        settings=ReadSettings(threads=threads, memory_bytes=memory_bytes),
        clock=FixedClock(instant_us(NOW)),
        **options,
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return build(folder / "set", write_events(folder), threads=1)


def test_rows_are_the_spines_in_its_order_duplicates_included(reference):
    asked = spine()
    table = reference.to_arrow()
    assert table.select(asked.column_names).equals(asked)
    assert table.column_names == [
        *asked.column_names,
        "spending__largest",
        "spending__n",
        "spending__shop",
        "spending__total",
        "left__over",
    ]
    assert table.slice(0, 5).equals(table.slice(50, 5))


def test_features_are_those_of_plain_python(reference):
    rows = events().to_pylist()
    week = 7 * 86_400
    for row in reference.to_arrow().to_pylist():
        seen = [event for event in rows if event["user"] == row["user"] and event["at"] < row["as_of"]]
        within = [event for event in seen if (row["as_of"] - event["at"]).total_seconds() <= week]
        assert row["spending__n"] == len(within)
        assert row["spending__shop"] == (seen[-1]["shop"] if seen else None)
        total = row["spending__total"]
        assert row["left__over"] == (None if total is None else row["budget"] - total)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("memory_bytes", [None, 60_000, 20_000])
def test_threads_and_partitions_do_not_matter(threads, memory_bytes, reference, tmp_path):
    built = build(tmp_path / "set", write_events(tmp_path), threads=threads, memory_bytes=memory_bytes)
    assert_same_table(reference=reference.to_arrow(), current=built.to_arrow())
    assert built.manifest.content_digest == reference.manifest.content_digest
    assert built.manifest.features == reference.manifest.features
    assert built.manifest.spine_digest == reference.manifest.spine_digest
    assert built.manifest.fingerprint == reference.manifest.fingerprint


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("files", [1, 3])
def test_the_order_of_rows_and_files_does_not_matter(seed, files, reference, tmp_path):
    shuffled = events().take(np.random.default_rng(seed).permutation(400))
    for number in range(files):
        begin, end = 400 * number // files, 400 * (number + 1) // files
        write_events(tmp_path / "source", shuffled.slice(begin, end - begin), f"{(7 * number) % 5}.parquet")
    built = build(tmp_path / "set", tmp_path / "source" / "*.parquet")
    assert_same_table(reference=reference.to_arrow(), current=built.to_arrow())
    assert built.manifest.content_digest == reference.manifest.content_digest
    assert built.manifest.features == reference.manifest.features


def test_small_row_groups_do_not_matter(reference, tmp_path):
    pq.write_table(events(), tmp_path / "orders.parquet", row_group_size=17)
    built = build(tmp_path / "set", tmp_path / "orders.parquet")
    assert built.manifest.content_digest == reference.manifest.content_digest


def test_the_same_again_gives_the_same_manifest(tmp_path):
    path = write_events(tmp_path)
    first, second = build(tmp_path / "one", path).manifest, build(tmp_path / "two", path).manifest
    assert first == second


def test_a_permuted_spine_gives_the_same_rows_permuted(reference, tmp_path):
    order = np.random.default_rng(4).permutation(55)
    built = build(tmp_path / "set", write_events(tmp_path), asked=spine().take(order))
    assert built.to_arrow().equals(reference.to_arrow().take(order))


def test_a_spine_without_rows_gives_a_training_set_without_rows(reference, tmp_path):
    built = build(tmp_path / "set", write_events(tmp_path), asked=spine().slice(0, 0), statuses=True)
    built.verify()
    assert built.row_count == 0
    assert built.to_arrow().schema.names[: len(reference.to_arrow().schema)] == reference.to_arrow().schema.names
    assert built.manifest.profile("spending__total").row_count == 0
    assert list(built.to_pandas().columns) == built.to_arrow().column_names


def test_a_source_without_rows_knows_nobody(tmp_path):
    built = build(tmp_path / "set", write_events(tmp_path, events(0)), statuses=True)
    table = built.to_arrow()
    assert set(table.column("spending__n__status").to_pylist()) == {"NOT_FOUND"}
    assert set(table.column("spending__n").to_pylist()) == {0}
    assert table.column("spending__total").null_count == 55
    assert built.manifest.sources[0].newest_event_time is None
    assert built.manifest.rows_beyond_newest_event == 55


def test_all_other_columns_pass_through_as_they_came(tmp_path):
    asked = spine(9).append_column("tags", pa.array([["x"], None] * 7, pa.list_(pa.string())))
    asked = asked.append_column("kind", pa.array(["a", None] * 7).dictionary_encode())
    asked = asked.append_column("price", pa.array(range(14), pa.decimal128(12, 3)))
    asked = asked.append_column("moment", pa.array(range(14), pa.timestamp("ns")))
    built = build(tmp_path / "set", write_events(tmp_path), asked=asked)
    for name in ("label", "tags", "kind", "price", "moment"):
        assert built.to_arrow().column(name).to_pylist() == asked.column(name).to_pylist()


def test_a_null_key_is_nobody(tmp_path):
    asked = spine(1).slice(0, 1).set_column(1, "user", pa.array([None], pa.int64()))
    built = build(tmp_path / "set", write_events(tmp_path), asked=asked, statuses=True)
    assert built.to_arrow().column("spending__total__status").to_pylist() == ["NOT_FOUND"]


def test_rows_beyond_the_newest_event_are_counted(tmp_path):
    newest = pa.compute.max(events().column("at")).cast(pa.int64()).as_py()
    instants = [newest - 1, newest, newest + 1, newest + 2, newest + 10**9]
    asked = pa.table({"user": [1] * 5, "as_of": pa.array(instants, pa.int64()).cast(INSTANT), "budget": [0.0] * 5})
    built = build(tmp_path / "set", write_events(tmp_path), asked=asked)
    assert built.manifest.rows_beyond_newest_event == 2


def broken(column, values):
    table = events(4)
    return table.set_column(table.column_names.index(column), column, values)


BAD_ROWS = {
    "a null key": (broken("user", pa.array([1, None, 2, None])), r"key 'user' is null in 2 rows, first in row 1"),
    "a null time": (broken("at", pa.array([START_US, None] * 2, INSTANT)), r"time 'at' is null in 2 rows"),
    "naive times": (broken("at", pa.array([START_US] * 4, pa.timestamp("us"))), r"no time zone"),
    "text for numbers": (broken("amount", pa.array(["1"] * 4)), r"'amount' is string now"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_break_the_contract_leave_nothing_behind(name, tmp_path):
    table, message = BAD_ROWS[name]
    path = write_events(tmp_path / "source", table)
    with pytest.raises(SourceDataError, match=message):
        build(tmp_path / "sets" / "set", path)
    assert list((tmp_path / "sets").iterdir()) == []


def test_a_missing_or_damaged_source_leaves_nothing_behind(tmp_path):
    path = write_events(tmp_path / "source")
    with store_of(tmp_path, path) as store:
        sound = path.read_bytes()
        path.write_bytes(sound[:-10])
        with pytest.raises(SourceDataError, match=r"orders.parquet' is not sound Parquet"):
            store.training_set("model", spine(), tmp_path / "sets" / "set")
        path.unlink()
        with pytest.raises(SourceMissingError, match=r"orders.parquet"):
            store.training_set("model", spine(), tmp_path / "sets" / "set")
        assert list((tmp_path / "sets").iterdir()) == []


def test_a_spine_that_cannot_be_used_leaves_nothing_behind(tmp_path):
    with pytest.raises(SpineError, match=r"no column 'user'"):
        build(tmp_path / "sets" / "set", write_events(tmp_path / "source"), asked=spine().drop_columns("user"))
    assert list((tmp_path / "sets").iterdir()) == []


def test_an_unknown_service_is_named_with_those_there_are(tmp_path):
    with store_of(tmp_path) as store, pytest.raises(UnknownServiceError, match=r"'modle'(?s:.*)model"):
        store.training_set("modle", spine(), tmp_path / "set")
