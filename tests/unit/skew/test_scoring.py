"""What a value is worth to an explanation follows from how rare it is."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.statuses import Status
from featurestore.guard.causes.scoring import surprises
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import Values


def bits(reference: list, served: list, kind: pa.DataType, *, status: Status = Status.PRESENT) -> np.ndarray:
    """Rate served values beside those of the reference; what is equal holds."""
    codes = np.zeros(len(reference), dtype=np.uint8)
    case = SimpleNamespace(
        world=codes,
        reference={"x": Values(pa.array(reference, kind), codes)},
        served={"x": Values(pa.array(served, kind), np.full(len(served), int(status), dtype=np.uint8))},
        differs={"x": np.array([left != right for left, right in zip(reference, served, strict=True)])},
    )
    return surprises(case)["x"][case.differs["x"]]


def test_a_boolean_is_worth_about_a_bit():
    reference = [True, False] * 50
    assert bits(reference, [not value for value in reference], pa.bool_()) == pytest.approx(np.ones(100))


def test_a_small_count_is_worth_a_few_bits():
    reference = [number % 8 for number in range(400)]
    served = [number + 1 if place % 3 == 0 else number for place, number in enumerate(reference)]
    found = bits(reference, served, pa.int64())
    assert np.all((found > 2.0) & (found < 5.0))


@pytest.mark.parametrize(
    ("kind", "make"), [(pa.float64(), float), (pa.list_(pa.float64()), lambda number: [float(number)])]
)
def test_a_value_of_many_is_worth_the_most(kind, make):
    reference = [make(number) for number in range(60)]
    served = [make(number + 1000) if number % 2 else make(number) for number in range(60)]
    assert bits(reference, served, kind) == pytest.approx(np.full(30, WEIGHTS.value))


def test_what_is_served_everywhere_is_worth_little():
    assert bits([float(number) for number in range(200)], [-1.0] * 200, pa.float64()) == pytest.approx(np.ones(200))


def test_that_an_entity_was_not_found_is_worth_the_most():
    found = bits([True] * 50, [None] * 50, pa.bool_(), status=Status.NOT_FOUND)
    assert found == pytest.approx(np.full(50, WEIGHTS.value))
