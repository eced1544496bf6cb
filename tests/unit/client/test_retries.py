"""When a request is repeated, and after how long."""

import pytest

from featurestore.client.retries import Retries
from featurestore.core.errors import ConfigError


def test_waits_double_up_to_the_longest():
    retries = Retries(count=6, first_seconds=0.1, most_seconds=0.5)
    waits = [retries.wait_seconds(repeated, None, 60.0) for repeated in range(7)]
    assert waits == [0.1, 0.2, 0.4, 0.5, 0.5, 0.5, None]


@pytest.mark.parametrize(
    ("said", "wait"), [("3", 3.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.1), ("-1", 0.1), ("²", 0.1)]
)
def test_the_server_is_heard(said, wait):
    """Only seconds are understood; a date or nonsense counts as nothing."""
    assert Retries().wait_seconds(0, said, 60.0) == wait


@pytest.mark.parametrize(("left", "wait"), [(3.001, 3.0), (3.0, None), (0.0, None), (-1.0, None)])
def test_no_wait_is_begun_that_uses_up_the_callers_time(left, wait):
    assert Retries().wait_seconds(0, "3", left) == wait


@pytest.mark.parametrize("wrong", [{"count": -1}, {"first_seconds": 0}, {"first_seconds": 3, "most_seconds": 2}])
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(ConfigError, match="not a valid schedule"):
        Retries(**wrong)
