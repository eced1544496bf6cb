"""What rows are worth that are about few entities."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.dtypes import parse_dtype
from featurestore.guard.comparing.sampling import BUCKETS, buckets
from featurestore.guard.drift.rows import EntityCounter, EntityRows


def worth(rows_per_entity, *, seed=1):
    """Return what rows are worth, entities being put into buckets by chance."""
    places = np.random.default_rng(seed).integers(0, BUCKETS, size=len(rows_per_entity))
    found = EntityRows()
    found.add(np.repeat(places, rows_per_entity))
    return found.worth


@pytest.mark.parametrize("rows", [[1] * 50, [40] * 80, [1, 2, 3, 94], [1] * 1000 + [1000]])
def test_rows_are_worth_what_kish_says(rows):
    rows = np.array(rows)
    effective = rows.sum() ** 2 / np.square(rows).sum()
    assert worth(rows) * rows.sum() == pytest.approx(effective, rel=0.01)


@pytest.mark.parametrize("entities", [1_000, 100_000, 1_000_000])
def test_entities_that_share_a_bucket_change_little(entities):
    assert worth([1] * entities) == pytest.approx(1.0, abs=0.01)
    assert worth([5] * entities) == pytest.approx(0.2, abs=0.002)


def test_no_rows_are_worth_as_much_as_any():
    assert EntityRows().worth == 1.0


def test_rows_are_counted_once_however_often_they_are_read():
    batch = pa.table({"x": [1.0] * 6, "of": [1, 1, 1, 2, 2, 2]})
    entities = EntityCounter({"x": "of", "y": "absent"})
    for _ in range(2):
        assert sum(found.num_rows for found in entities.counted([batch, batch])) == 12
    assert entities.worth("x") == pytest.approx(1 / 6, rel=1e-4)
    assert entities.worth("y") == entities.worth("z") == 1.0


def test_keys_of_any_dtype_have_buckets():
    columns = {
        "int64": [1, 2, 1],
        "string": ["a", "b", "a"],
        "decimal(10, 2)": [Decimal("1.00"), Decimal("2.00"), Decimal("1.00")],
    }
    for text, values in columns.items():
        dtype = parse_dtype(text)
        first, second, third = buckets([(pa.chunked_array([pa.array(values, dtype.arrow)]), dtype)], rows=3).tolist()
        assert first == third != second, text
