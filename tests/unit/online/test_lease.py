"""Who holds a lease is told in time that it cannot be sure to hold it any more."""

import time

import pytest

from featurestore.errors import StateError, StorageError
from featurestore.online.lease import Holder


class Leases:
    """Leases of a store that can be away."""

    def __init__(self):
        self.is_away = False

    def _answer(self):
        if self.is_away:
            raise StorageError("it is away")
        return True

    def take(self, name, token, seconds):
        return self._answer()

    renew = take

    def release(self, name, token):
        return self._answer()


def hold_while_the_store_is_away(leases):
    with Holder(leases, 0.6).hold("view") as hold:
        begun = time.monotonic()
        leases.is_away = True
        held = []
        while hold.is_held():
            held.append(time.monotonic() - begun)
            time.sleep(0.02)
        assert held
        assert max(held) < 0.6, "nobody else can have had it so soon"
        leases.is_away = False
        assert not hold.is_held(), "somebody else may have had it meanwhile"


def test_a_lease_lasts_for_as_long_as_it_was_given_while_the_store_is_away():
    with pytest.raises(StateError) as caught:
        hold_while_the_store_is_away(Leases())
    assert caught.value.code == "lease-lost"


def test_a_store_that_is_away_for_a_moment_costs_no_lease():
    leases = Leases()
    with Holder(leases, 0.6).hold("view") as hold:
        for _ in range(4):
            leases.is_away = True
            time.sleep(0.3)
            assert hold.is_held()
            leases.is_away = False
            assert hold.is_held()
    assert not hold.is_held(), "it was given back"
