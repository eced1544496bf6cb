"""Days in small worlds: what was served is audited in the end, and the audit is right about it."""

import pytest

from tests.simulation.world import World
from tests.stores import OTHERS

STEPS = 25


@pytest.fixture
def world(tmp_path, request):
    made = World(tmp_path, request.param)
    yield made
    made.store.close()


@pytest.mark.parametrize("world", [1, 2], indirect=True)
def test_what_a_store_that_is_refreshed_serves_passes_its_audit(world):
    """Late, doubled and shuffled events, crashes and restarts leave no trace in any value."""
    check_days(world)


@pytest.mark.parametrize("online_urls", OTHERS, indirect=True)
def test_the_same_holds_on_every_store(tmp_path, online_urls):
    world = World(tmp_path, 3, online_urls())
    check_days(world)
    world.store.close()


def check_days(world):
    for _ in range(STEPS):
        world.pass_time()
        world.refresh()
        world.ask()
    report = world.audit()
    assert (report.verdict, report.different, report.skipped) == ("pass", 0, ())
    assert report.compared == report.served == sum(len(answer.rows) for answer in world.served)
    assert set(world.recount().values()) == {0}


@pytest.mark.parametrize("world", [11], indirect=True)
def test_an_audit_finds_every_value_that_missed_refreshes_spoiled(world):
    for step in range(STEPS):
        world.pass_time()
        if step == 0 or world.chance.random() < 0.5:
            world.refresh()
        world.ask()
    check_audit(world)


@pytest.mark.parametrize("world", [21], indirect=True)
def test_an_audit_finds_every_value_that_rewritten_history_spoiled(world):
    for _ in range(STEPS):
        world.pass_time()
        world.refresh()
        world.ask()
    world.rewrite()
    check_audit(world)


def check_audit(world):
    """The audit's counts are those of a recount by hand, and there is something to count."""
    report = world.audit()
    different = {feature.name: feature.different for feature in report.features}
    assert different == world.recount()
    assert report.verdict == "fail"
    assert report.different > 0


def test_a_refresh_after_the_source_was_rewritten_serves_the_new_values(tmp_path):
    """Rows that came below the watermark are noticed, and the view is folded again."""
    world = World(tmp_path, 31)
    for _ in range(10):
        world.pass_time()
    world.refresh()
    forgotten = dict(world.pending[0], id="forgotten", user="a", learned=world.clock.now_us() - 1, amount=7.0)
    world._write([forgotten | {"paid": world.clock.now_us() - 2}])
    world.pass_time()
    runs = world.store.materialize()
    assert all("below the watermark" in run.rebuilt for run in runs)
    world.ask()
    assert world.audit().verdict == "pass"
    world.store.close()
