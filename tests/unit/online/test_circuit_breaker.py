"""A store that is down is asked by one probe at a time, and by nobody during a pause."""

import threading
import time

import pytest

from featurestore.core.errors import StorageError
from featurestore.online.stores.circuit_breaker import (
    FAIR_SECONDS,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    CircuitBreaker,
)
from featurestore.online.stores.deadline import Deadline, out_of_time


class Flaky:
    """A store that can be taken down, and counts how often it was asked."""

    def __init__(self):
        self.is_down = False
        self.reads = 0
        self.now = 100.0
        self.beside = None

    def read(self, keys):
        self.reads += 1
        if self.beside is not None:
            self.beside()
        if self.is_down:
            raise StorageError("connection refused")
        return dict.fromkeys(keys, b"value")


@pytest.fixture
def flaky():
    return Flaky()


@pytest.fixture
def guarded(flaky):
    return CircuitBreaker(flaky, lambda: flaky.now)


def refused(guarded):
    with pytest.raises(StorageError) as caught:
        guarded.read([b"k"])
    return caught.value.code == "store-down"


def test_reads_of_a_sound_store_go_through(flaky, guarded):
    assert [guarded.read([b"k"]) for _ in range(3)] == [{b"k": b"value"}] * 3
    assert not guarded.is_open


def test_after_a_failure_the_store_is_left_alone_for_a_moment(flaky, guarded):
    flaky.is_down = True
    assert not refused(guarded)
    assert all(refused(guarded) for _ in range(50))
    assert flaky.reads == 1
    assert guarded.is_open


def test_a_probe_that_succeeds_lets_everybody_in(flaky, guarded):
    flaky.is_down = True
    refused(guarded)
    flaky.is_down = False
    assert refused(guarded)
    flaky.now += FIRST_PAUSE_SECONDS
    assert guarded.read([b"k"])
    assert guarded.read([b"k"])
    assert not guarded.is_open


def test_while_a_probe_is_under_way_the_others_are_refused(flaky, guarded):
    flaky.is_down = True
    refused(guarded)
    flaky.now += FIRST_PAUSE_SECONDS
    flaky.beside = lambda: [refused(guarded) for _ in range(3)]
    assert not refused(guarded)
    assert flaky.reads == 2


def test_pauses_grow_up_to_a_bound(flaky, guarded):
    flaky.is_down = True
    refused(guarded)
    pauses = []
    for _ in range(8):
        begin = flaky.now
        while refused(guarded):
            flaky.now += FIRST_PAUSE_SECONDS / 4
        pauses.append(flaky.now - begin)
    assert pauses == sorted(pauses)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4)]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_nobody_waits_for_a_probe_that_hangs(flaky, guarded):
    """Found in a review: the caller whose read was the probe waited as long as the store's timeout."""
    flaky.is_down = True
    refused(guarded)
    flaky.now += FIRST_PAUSE_SECONDS
    may_go_on = threading.Event()
    flaky.beside = lambda: may_go_on.wait(10)
    began = time.perf_counter()
    assert all(refused(guarded) for _ in range(20))
    assert time.perf_counter() - began < 1
    assert flaky.reads == 2
    flaky.is_down = False
    may_go_on.set()
    while guarded.is_open:
        time.sleep(0.01)
    assert guarded.read([b"k"])


def test_refusals_say_how_long_the_store_is_left_alone(flaky, guarded):
    flaky.is_down = True
    refused(guarded)
    with pytest.raises(StorageError) as caught:
        guarded.read([b"k"])
    assert caught.value.retry_seconds == FIRST_PAUSE_SECONDS


@pytest.mark.parametrize(("given", "is_failure"), [(FAIR_SECONDS / 2, False), (FAIR_SECONDS, True)])
def test_a_store_has_failed_only_if_it_was_given_a_fair_time(flaky, guarded, given, is_failure):
    def hang():
        flaky.now += given
        raise out_of_time("a store")

    flaky.beside = hang
    with pytest.raises(StorageError):
        guarded.read([b"k"])
    assert guarded.is_open == is_failure


def test_a_probes_caller_waits_no_longer_than_it_can(flaky, guarded):
    flaky.is_down = True
    refused(guarded)
    flaky.now += FIRST_PAUSE_SECONDS
    flaky.beside = lambda: time.sleep(0.2)
    with Deadline(0.0):
        assert refused(guarded)
