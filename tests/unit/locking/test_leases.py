"""Who holds a lease is told in time that it cannot be sure to hold it any more."""

import time

import pytest

from featurestore.core.errors import RegistryError, StateError, StorageError
from featurestore.storage import LeaseHolder


class LeaseStore:
    """LeaseStore of a store that can be away."""

    def __init__(self, error=StorageError):
        self.error = error
        self.is_away = False

    def _answer(self):
        if self.is_away:
            raise self.error("it is away")
        return True

    def take(self, name, token, seconds):
        return self._answer()

    renew = take

    def release(self, name, token):
        return self._answer()


def hold_while_the_store_is_away(leases):
    with LeaseHolder(leases, 0.6, "store").hold("view") as hold:
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


@pytest.mark.parametrize("error", [StorageError, RegistryError])
def test_a_lease_lasts_for_as_long_as_it_was_given_while_the_store_is_away(error):
    with pytest.raises(StateError) as caught:
        hold_while_the_store_is_away(LeaseStore(error))
    assert caught.value.code == "lease-lost"


@pytest.mark.parametrize("error", [StorageError, RegistryError])
def test_a_store_that_is_away_for_a_moment_costs_no_lease(error):
    leases = LeaseStore(error)
    with LeaseHolder(leases, 0.6, "store").hold("view") as hold:
        for _ in range(4):
            leases.is_away = True
            time.sleep(0.3)
            assert hold.is_held()
            leases.is_away = False
            assert hold.is_held()
    assert not hold.is_held(), "it was given back"


@pytest.mark.parametrize("error", [StorageError, RegistryError])
def test_a_store_that_is_away_when_a_name_is_given_back_lets_the_lease_run_out(error):
    leases = LeaseStore(error)
    with LeaseHolder(leases, 60, "store").hold("view"):
        leases.is_away = True
    with pytest.raises(error), LeaseHolder(leases, 60, "store").hold("view"):
        pass


class Unheard(LeaseStore):
    """LeaseStore of a store that does what it is told, and of which the answers are lost while it is away."""

    def __init__(self, error=StorageError):
        super().__init__(error)
        self.holder = None

    def take(self, name, token, seconds):
        taken = self.holder is None
        if taken:
            self.holder = token
        return self._answer() and taken

    def release(self, name, token):
        self._answer()
        released = self.holder == token
        if released:
            self.holder = None
        return released


@pytest.mark.parametrize("error", [StorageError, RegistryError])
def test_a_name_that_was_taken_without_an_answer_is_not_busy_for_the_same_process(error):
    leases = Unheard(error)
    holder = LeaseHolder(leases, 60, "store")
    leases.is_away = True
    for _ in range(2):
        with pytest.raises(error), holder.hold("view"):
            pass
    leases.is_away = False
    with pytest.raises(StateError), LeaseHolder(leases, 60, "store").hold("view"):
        pass
    with holder.hold("view") as hold:
        assert hold.is_held()
    assert leases.holder is None


@pytest.mark.parametrize("error", [StorageError, RegistryError])
def test_a_name_that_was_given_back_without_an_answer_is_not_busy_for_the_same_process(error):
    leases = Unheard(error)
    holder = LeaseHolder(leases, 60, "store")
    with holder.hold("view"):
        leases.is_away = True
    leases.is_away = False
    assert leases.holder is not None
    with holder.hold("view"):
        pass
    assert leases.holder is None


def test_a_name_that_somebody_uses_is_never_given_back_for_another_attempt():
    leases = Unheard()
    holder = LeaseHolder(leases, 60, "store")
    leases.is_away = True
    with pytest.raises(StorageError), holder.hold("view"):
        pass
    leases.is_away, leases.holder = False, None
    with holder.hold("view") as hold:
        with pytest.raises(StateError), holder.hold("view"):
            pass
        assert hold.is_held()
