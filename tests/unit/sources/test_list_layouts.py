"""Lists in every layout of Arrow, at any depth, are the values they say, on both roads."""

from __future__ import annotations

import datetime as dt
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, agg, col
from featurestore.core.dtypes import list_of, parse_dtype
from featurestore.core.errors import SourceDataError
from featurestore.core.values import list_items, plain_layout
from featurestore.kernels.words import from_words, to_words, validity
from featurestore.sources.content import row_hashes
from featurestore.sources.convert import to_contract
from featurestore.sources.deliveries import one_delivery_each
from tests.layouts import in_chunks, laid_out, random_list_dtype, random_value

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SEEDS = range(80)


def some_values(random, dtype, count):
    nulls = random.choice([0.0, 0.2, 0.9])
    return [random_value(random, dtype, nulls) for _ in range(count)]


def sort_key(value):
    """Order values as Python does, null before all others, shorter prefixes first."""
    if isinstance(value, list):
        return (1, [sort_key(item) for item in value])
    return (value is not None, value if value is not None else 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layout_is_read_as_its_values(seed):
    random = Random(seed)
    dtype = random_list_dtype(random)
    values = some_values(random, dtype, random.choice([0, 1, 7, 30]))
    column = in_chunks(random, dtype, values)
    column.validate(full=True)
    found, counts = to_contract(column, dtype, timezone=None, where="source 's'")
    found.validate(full=True)
    assert found.type == dtype.arrow
    assert found.to_pylist() == values
    assert (counts.rows, counts.nulls) == (len(values), values.count(None))


@pytest.mark.parametrize("seed", SEEDS)
def test_words_of_lists_order_as_python_orders_them(seed):
    random = Random(seed)
    dtype = random_list_dtype(random)
    values = some_values(random, dtype, 25)
    array, _ = to_contract(laid_out(random, dtype, values), dtype, timezone=None, where="source 's'")
    words, dictionary = to_words(array, dtype)
    known = [value for value in values if value is not None]
    distinct = sorted({repr(sort_key(value)): value for value in known}.values(), key=sort_key)
    assert dictionary.to_pylist() == distinct
    assert [dictionary[int(word)].as_py() for word, value in zip(words, values, strict=True) if value is not None] == (
        known
    )
    assert from_words(words, validity(array), dtype, dictionary).equals(array)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_row_has_one_content_in_whatever_layout_it_came(seed):
    random = Random(seed)
    dtype = random_list_dtype(random)
    values = some_values(random, dtype, 20)
    first, second = (
        to_contract(laid_out(random, dtype, values), dtype, timezone=None, where="source 's'")[0] for _ in range(2)
    )
    one, other = row_hashes(pa.table({"c": first})), row_hashes(pa.table({"c": second}))
    assert one.tolist() == other.tolist()
    assert row_hashes(pa.table({"c": first}).slice(7)).tolist() == one.tolist()[7:]
    assert len(set(one.tolist())) == len({repr(value) for value in values})


def test_deliveries_with_nested_lists_are_compared():
    lists = pa.array([[[1], None], [[1], [0]], [[1]]], pa.list_(pa.list_(pa.int64())))
    table = pa.table({"id": ["x", "x", "x"], "v": lists})
    assert one_delivery_each(table, "id").tolist() == [False, False, True]


def test_a_sliced_view_does_not_read_what_lies_beside_it():
    views = pa.ListViewArray.from_arrays(
        pa.array([0, 4, 2, 0], pa.int32()), pa.array([2, 1, 2, 5], pa.int32()), pa.array([1, 2, 3, 4, 5])
    )
    plain = plain_layout(views.slice(1, 2))
    assert plain.to_pylist() == [[5], [3, 4]]
    assert len(list_items(plain)[1]) == 3


def test_a_declared_dtype_is_that_of_items_too():
    found, _ = to_contract(
        pa.array([[["1"], None], []], pa.list_view(pa.list_(pa.string_view()))),
        parse_dtype("list<list<decimal(5,1)>>"),
        timezone=None,
        where="source 's'",
    )
    assert str(found.to_pylist()) == "[[[Decimal('1.0')], None], []]"
    with pytest.raises(SourceDataError, match=r"row 12 holds \['x'\], which is not a list<int64>"):
        to_contract(
            pa.array([[], [], ["x"]], pa.list_(pa.string())),
            parse_dtype("list<int64>"),
            timezone=None,
            where="source 's'",
            first_row=10,
        )
    with pytest.raises(SourceDataError, match="the column holds list<"):
        to_contract(pa.array([[True]]), parse_dtype("list<date>"), timezone=None, where="source 's'")


def test_lists_of_nothing_are_read_as_any_lists():
    for column in (pa.array([[None], [], None]), pa.array([[None], [], None], pa.large_list_view(pa.null()))):
        found, _ = to_contract(column, parse_dtype("list<string>"), timezone=None, where="source 's'")
        assert (found.type, found.to_pylist()) == (pa.list_(pa.string()), [[None], [], None])


def test_floats_in_nested_lists_are_finite_or_null():
    column = pa.array([[[np.nan, -0.0]], [[np.inf]]], pa.list_view(pa.list_(pa.float32(), -1)))
    found, _ = to_contract(column, parse_dtype("list<list<float64>>"), timezone=None, where="source 's'")
    assert str(found.to_pylist()) == "[[[None, 0.0]], [[None]]]"


@pytest.mark.parametrize("seed", range(16))
def test_both_roads_give_what_plain_python_gives(seed, tmp_path):
    """Events of two entities at distinct instants, in a random layout; every aggregation that takes lists."""
    random = Random(seed)
    dtype = random_list_dtype(random)
    count = random.choice([1, 6, 20])
    values = some_values(random, dtype, count)
    users = [random.choice("ab") for _ in range(count)]
    times = [START + dt.timedelta(minutes=i) for i in range(count)]
    frame = pa.table({"user": users, "at": times, "l": in_chunks(random, dtype, values)})
    source = FrameSource("f", frame=frame, event_time="at")
    column = col("l")
    features = {
        "last": agg.last(column),
        "first": agg.first(column),
        "known_last": agg.last(column, respect_nulls=True),
        "last_n": agg.last_n(column, 3),
        "first_n": agg.first_n(column, 2),
        "n": agg.count(column).lifetime(),
        "kinds": agg.count_distinct(column).lifetime(),
    }
    view = FeatureView("v", entity=Entity("user", key="user"), source=source, features=features)
    store = FeatureStore.local(tmp_path)
    store.apply(FeatureService("svc", features=[view]))
    end = START + dt.timedelta(days=1)
    table = store.training_set("svc", pa.table({"user": ["a", "b"], "as_of": [end] * 2}), tmp_path / "ts").to_arrow()
    assert table.schema.field("v__last_n").type == list_of(dtype).arrow
    store.materialize(until=end)
    online = store.get_online_features("svc", [{"user": "a"}, {"user": "b"}], as_of=end).to_arrow()
    for row, user in enumerate("ab"):
        own = [value for who, value in zip(users, values, strict=True) if who == user]
        known = [value for value in own if value is not None]
        expected = {
            "last": known[-1] if known else None,
            "first": known[0] if known else None,
            "known_last": own[-1] if own else None,
            "last_n": known[-3:] or None,
            "first_n": known[:2] or None,
            "n": len(known),
            "kinds": len({repr(value) for value in known}),
        }
        for name, value in expected.items():
            assert table.column(f"v__{name}")[row].as_py() == value, name
            assert online.column(f"v__{name}")[row].as_py() == value, name
    store.close()
