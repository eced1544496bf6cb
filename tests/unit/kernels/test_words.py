"""What goes into words comes out again, and words order as values do."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.dtypes import parse_dtype
from featurestore.kernels.events import sort_keys
from featurestore.kernels.words import from_words, reader_of, to_words, validity

UTC = dt.UTC
COLUMNS = {
    "bool": [True, None, False],
    "int64": [-(2**63), None, 2**63 - 1, 0],
    "float64": [-1.5, None, 0.0, 5e-324, 1e308],
    "string": ["b", None, "", "a", "ä", "b"],
    "timestamp": [dt.datetime(1969, 1, 1, tzinfo=UTC), None, dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)],
    "date": [dt.date(1, 1, 1), None, dt.date(2026, 11, 23)],
    "binary": [b"\x00", None, b"", b"\xff"],
    "decimal(10,2)": [Decimal("-1.25"), None, Decimal("99999999.99")],
    "decimal(38,4)": [Decimal("-1.2500"), None, Decimal("9999999999999999999999999999999999.9999")],
    "list<int64>": [[1, 2], None, [], [1, None], [1]],
    "list<string>": [["a"], None, ["a", "b"], []],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_words_are_read_back_as_they_were(name):
    dtype = parse_dtype(name)
    array = pa.array([*COLUMNS[name], *COLUMNS[name]], type=dtype.arrow).slice(1)
    words, dictionary = to_words(array, dtype)
    assert from_words(words, validity(array), dtype, dictionary).equals(array)
    read = reader_of(dtype)
    known = None if dictionary is None else dictionary.to_pylist()
    values = array.to_pylist()
    assert [read(int(w), known) for w, v in zip(words, values, strict=True) if v is not None] == [
        v for v in values if v is not None
    ]


@pytest.mark.parametrize("name", COLUMNS)
def test_the_word_of_a_null_is_zero(name):
    dtype = parse_dtype(name)
    array = pa.array(COLUMNS[name], type=dtype.arrow)
    words, _ = to_words(array, dtype)
    assert words[~validity(array)].tolist() == [0]


@pytest.mark.parametrize("name", [name for name in COLUMNS if not name.startswith("list")])
def test_words_order_as_values_do(name):
    dtype = parse_dtype(name)
    values = [value for value in COLUMNS[name] if value is not None]
    words, _ = to_words(pa.array(values, type=dtype.arrow), dtype)
    keys = sort_keys(words, is_float=name == "float64")
    order = np.argsort(keys, kind="stable")
    assert [values[i] for i in order] == sorted(values)


def test_lists_order_by_their_items_with_nulls_first():
    dtype = parse_dtype("list<int64>")
    values = [[1, 2], [], [1, None], [1], [0, 9]]
    words, dictionary = to_words(pa.array(values, type=dtype.arrow), dtype)
    assert dictionary.to_pylist() == [[], [0, 9], [1], [1, None], [1, 2]]
    assert words.tolist() == [4, 0, 3, 2, 1]


@pytest.mark.parametrize("name", COLUMNS)
def test_no_rows_are_no_words(name):
    dtype = parse_dtype(name)
    array = pa.array([], type=dtype.arrow)
    words, dictionary = to_words(array, dtype)
    assert from_words(words, validity(array), dtype, dictionary).equals(array)
