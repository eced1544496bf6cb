"""Values that may change elsewhere: callers wait for them for a bounded time, whatever hangs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore.core.errors import RegistryError, StorageError
from featurestore.core.temporal import FixedClock
from featurestore.online.answering.cached_value import (
    RECHECK_US,
    STILL_ASKING,
    CachedValue,
    RecentTimeout,
)
from featurestore.online.stores.deadline import Deadline


class Place:
    """Where values come from; it may hang, and fail."""

    def __init__(self):
        self.calls, self.value, self.failure = 0, "a", None
        self.may_answer = threading.Event()
        self.may_answer.set()

    def find(self, known):
        self.calls += 1
        self.may_answer.wait(30)
        if self.failure is not None:
            raise self.failure
        return self.value


@pytest.fixture
def place():
    found = Place()
    yield found
    found.may_answer.set()


@pytest.fixture
def clock():
    return FixedClock(0)


def refreshed(place, clock, stall=None):
    return CachedValue(place.find, clock, stall or RecentTimeout(), where="registry")


def test_a_value_is_found_out_once_a_second(place, clock):
    value = refreshed(place, clock)
    assert [value.get() for _ in range(3)] == ["a"] * 3
    place.value = "b"
    clock.instant_us = RECHECK_US - 1
    assert (value.get(), place.calls) == ("a", 1)
    clock.instant_us = RECHECK_US
    assert (value.get(), place.calls, value.value) == ("b", 2, "b")


def test_while_it_hangs_the_last_value_is_used_and_no_second_thread_hangs(place, clock):
    value = refreshed(place, clock)
    value.get()
    place.may_answer.clear()
    clock.instant_us = RECHECK_US
    with Deadline(0.2):
        assert [value.get() for _ in range(50)] == ["a"] * 50
    assert place.calls == 2


def test_who_has_waited_in_vain_spares_the_others_the_wait(place, clock):
    stall, other_place = RecentTimeout(), Place()
    one, other = refreshed(place, clock, stall), refreshed(other_place, clock, stall)
    one.get(), other.get()
    for hanging in (place, other_place):
        hanging.may_answer.clear()
    clock.instant_us = RECHECK_US
    with Deadline(0.4):
        one.get()
    began = time.perf_counter()
    with Deadline(60):
        assert other.get() == "a"
    assert time.perf_counter() - began < 0.4
    other_place.may_answer.set()


def test_without_any_value_callers_are_refused_when_their_time_is_up(place, clock):
    place.may_answer.clear()
    value = refreshed(place, clock)
    for _ in range(3):
        with Deadline(0.05), pytest.raises(StorageError) as raised:
            value.get()
        assert raised.value.code == STILL_ASKING
    assert place.calls == 1
    place.may_answer.set()
    assert value.get() == "a"


def test_what_it_fails_by_is_raised_to_all_who_wait_and_asked_anew(place, clock):
    place.may_answer.clear()
    place.failure = RegistryError("no")
    value = refreshed(place, clock)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(value.get) for _ in range(4)]
        place.may_answer.set()
        for one in asking:
            with pytest.raises(RegistryError):
                one.result(30)
    place.failure = None
    assert value.get() == "a"
