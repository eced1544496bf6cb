"""Days in small worlds whose payments are pushed: what was served complete is what training sets hold."""

import pytest

from tests.budget import times
from tests.simulation.stream_world import StreamWorld
from tests.stores import OTHERS

STEPS = 50


@pytest.mark.parametrize("seed", range(times(4)))
def test_pushed_and_delivered_payments_count_once_on_both_roads(tmp_path, seed):
    """Late, future, doubled and shuffled events, compaction, restarts and a full disk leave no trace in any value."""
    check(StreamWorld(tmp_path, seed))


@pytest.mark.parametrize("online_urls", OTHERS, indirect=True)
def test_they_do_on_every_store(tmp_path, online_urls):
    check(StreamWorld(tmp_path, 1, online=online_urls()))


def check(world):
    world.push()
    world.refresh()
    does = (world.push, world.push, world.deliver, world.refresh, world.restart, world.compact, world.catch_up)
    for _ in range(STEPS):
        world.pass_time()
        world.chance.choice(does)()
        if world.chance.random() < 0.3:
            world.catch_up()
        world.ask()
    compared, wrong = world.differences()
    assert not wrong
    assert min(compared.values()) > STEPS / 5
    world.store.close()
