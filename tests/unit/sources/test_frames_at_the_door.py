"""Columns of frames that features can be made of only once somebody says how, and what the errors say."""

import datetime as dt
from tempfile import TemporaryDirectory

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, agg, col, when
from featurestore.core.errors import DefinitionError, SourceDataError
from featurestore.sources import read_schema

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END = AT + dt.timedelta(days=1)
SIZES = ["S", "M", "L"]


def both_roads(tmp_path, source, features, *, key="user", dtype="string", asked=("a",)):
    """Return the features of some keys, which both roads must agree on."""
    view = FeatureView("v", entity=Entity(key, key=key, dtype=dtype), source=source, features=features)
    store = FeatureStore.local(tmp_path)
    store.apply(FeatureService("svc", features=[view]))
    keys = asked if isinstance(asked, pa.Array) else pa.array(asked)
    spine = pa.table({key: keys, "as_of": [END] * len(asked)})
    offline = store.training_set("svc", spine, tmp_path / "ts").to_arrow()
    store.materialize(until=END)
    online = store.get_online_features("svc", [{key: one} for one in keys.to_pylist()], as_of=END).to_arrow()
    names = [f"v__{name}" for name in features]
    assert offline.select(names).to_pylist() == online.select(names).to_pylist()
    store.close()
    return {name: offline.column(f"v__{name}").to_pylist() for name in features}


def frame(**columns):
    return pd.DataFrame({"user": ["a", "a"], "at": [AT, AT + dt.timedelta(hours=1)], **columns})


def said(source, features):
    view = FeatureView("v", entity=Entity("user", key="user"), source=source, features=features)
    with TemporaryDirectory() as folder, FeatureStore.local(folder) as store:
        with pytest.raises(DefinitionError) as error:
            store.apply(FeatureService("svc", features=[view]))
        return str(error.value)


def test_a_type_that_has_no_dtype_is_named_with_its_column():
    source = FrameSource("f", frame=frame(j=[{"a": 1}, {"a": 2}]), event_time="at")
    assert read_schema(source)["j"] is None
    text = said(source, {"j": agg.last(col("j"))})
    assert "column 'j' of source 'f' has a type that features cannot be made of (struct<a: int64>)" in text


@pytest.mark.parametrize(
    ("column", "kind", "example"),
    [([None, None], "null", "float64"), (pa.array([[None], []]), "list<item: null>", "list<float64>")],
)
def test_a_column_of_nulls_alone_has_a_way_out_that_the_error_names(tmp_path, column, kind, example):
    table = pa.table({"user": ["a", "a"], "at": [AT, AT], "n": column})
    text = said(FrameSource("f", frame=table, event_time="at"), {"n": agg.last(col("n"))})
    assert f"({kind})" in text
    assert f"dtypes={{'n': '{example}'}}" in text
    source = FrameSource("f", frame=table, event_time="at", dtypes={"n": example})
    found = both_roads(tmp_path, source, {"n": agg.count(col("n")).lifetime()})
    assert found == {"n": [0 if kind == "null" else 2]}


def test_an_empty_extract_is_a_source_once_its_dtypes_are_declared(tmp_path):
    empty = pd.DataFrame({"user": [], "at": pd.Series([], dtype="datetime64[us, UTC]"), "x": []}, dtype=object)
    empty["at"] = pd.Series([], dtype="datetime64[us, UTC]")
    source = FrameSource("f", frame=empty, event_time="at", dtypes={"user": "string", "x": "float64"})
    features = {"x": agg.last(col("x")), "n": agg.count().lifetime()}
    assert both_roads(tmp_path, source, features) == {"x": [None], "n": [0]}


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(["S", "L"], SIZES, ordered=True),
        pl.Series(["S", "L"], dtype=pl.Enum(SIZES)).to_arrow(),
    ],
    ids=["pandas", "polars"],
)
@pytest.mark.parametrize(
    "feature",
    [
        agg.max(col("s")).lifetime(),
        agg.min(when(col("s") == "S", col("s"))).lifetime(),
        agg.count(where=col("s") < "M").lifetime(),
        agg.count(where=col("s").fill_null("M") >= "M").lifetime(),
    ],
)
def test_ordered_categories_are_not_sorted_by_their_text(column, feature):
    """Pandas and Polars would compare S, M and L by their order; the text's order would be another answer."""
    table = pa.table({"user": ["a", "a"], "at": [AT, AT], "s": pa.array(column)})
    text = said(FrameSource("f", frame=table, event_time="at"), {"x": feature})
    assert "ordered categories" in text
    assert ".cast('string')" in text


def test_categories_are_plain_values_elsewhere(tmp_path):
    ordered = frame(s=pd.Categorical(["S", "L"], SIZES, ordered=True), c=pd.Categorical(["b", "a"]))
    features = {
        "last": agg.last(col("s")),
        "kinds": agg.count_distinct(col("s")).lifetime(),
        "small": agg.count(where=col("s") == "S").lifetime(),
        "text": agg.min(col("s").cast("string")).lifetime(),
        "least": agg.min(col("c")).lifetime(),
    }
    source = FrameSource("f", frame=ordered, event_time="at")
    expected = {"last": ["L"], "kinds": [2], "small": [1], "text": ["L"], "least": ["a"]}
    assert both_roads(tmp_path, source, features) == expected


@pytest.mark.parametrize("dtype", ["string", "decimal(20,0)"])
def test_unsigned_keys_beyond_int64_work_as_text_or_decimals(tmp_path, dtype):
    numbers = pa.array([2**64 - 1, 5], pa.uint64())
    table = pa.table({"id": numbers, "at": [AT, AT], "x": [1, 2]})
    source = FrameSource("f", frame=table, event_time="at", dtypes={"id": dtype})
    asked = numbers.cast(pa.string()) if dtype == "string" else numbers
    found = both_roads(tmp_path, source, {"x": agg.last(col("x"))}, key="id", dtype=dtype, asked=asked)
    assert found == {"x": [1, 2]}


def test_unsigned_keys_beyond_int64_are_refused_with_the_way_out(tmp_path):
    table = pa.table({"id": pa.array([2**64 - 1], pa.uint64()), "at": [AT], "x": [1]})
    source = FrameSource("f", frame=table, event_time="at")
    with pytest.raises(SourceDataError, match="does not fit into int64") as error:
        both_roads(tmp_path, source, {"x": agg.last(col("x"))}, key="id", dtype="int64", asked=[1])
    assert "'decimal(20,0)' or 'string'" in error.value.hint


def test_the_hint_for_decimals_that_are_too_wide_to_be_summed_keeps_their_digits(tmp_path):
    table = pl.DataFrame({"user": ["a", "a"], "at": [AT, AT], "d": ["0.10", "0.20"]}).with_columns(
        pl.col("d").cast(pl.Decimal(38, 2))
    )
    source = FrameSource("f", frame=table, event_time="at")
    assert ".cast('decimal(18,2)') keeps the exact digits" in said(source, {"d": agg.sum(col("d")).lifetime()})
    found = both_roads(tmp_path, source, {"d": agg.sum(col("d").cast("decimal(18,2)")).lifetime()})
    assert [str(value) for value in found["d"]] == ["0.30"]
    assert ".cast('float64')" in said(source, {"d": agg.mean(col("d")).lifetime()})
