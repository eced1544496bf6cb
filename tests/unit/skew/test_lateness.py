"""A finding of late refreshes says how late they were, and which refresh would have made both roads equal."""

import re

import pytest

from featurestore import continuous, every
from featurestore.core.temporal import format_instant
from featurestore.guard.causes import lateness
from tests.unit.skew.world import USERS, SmallWorld, at, payments

DECLARED = "refresh=every('1h', lag='10m')"


def late_world(folder, lateness, *, refresh=None, hours=range(24, 34)):
    """Serve hourly refreshes that come some minutes after the hour; ask every three minutes."""
    world = SmallWorld(folder, refresh=refresh or every("1h", lag="10m"))
    world.write(payments(1_500, seed=7))
    world.open()
    world.run(hours[0] - 1 + 10 / 60, ended=hours[0] - 1 + 10 / 60)
    for hour in hours:
        came = lateness(hour)
        is_done = False
        for minute in range(0, 60, 3):
            if minute >= came and not is_done:
                world.run(hour + 10 / 60, ended=hour + came / 60)
                is_done = True
            world.ask(hour + minute / 60, f"u{(hour + minute) % USERS}")
    return world


def counts(report):
    compared = sum(feature.compared for feature in report.features)
    return compared - report.different, compared


def under(world, folder, table, refresh):
    """Compare what was served with what a training set holds under another refresh."""
    other = SmallWorld(folder, refresh=refresh)
    (folder / "payments").symlink_to(world.folder / "payments")
    other.open()
    found = other.audit_foreign(table, causes=False)
    other.store.close()
    return counts(found)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_the_refresh_proposed_makes_as_many_values_equal_as_it_says(tmp_path, is_foreign):
    """Runs that land 25 minutes after the hour: the lag is theirs if they were taken down, else that of a question."""
    world = late_world(tmp_path, lambda _: 25)
    report = world.audit_foreign(world.logged()) if is_foreign else world.audit()
    equal, compared = counts(report)
    (finding,) = report.findings
    lag = "27m" if is_foreign else "25m"
    assert finding.cause == "missed_refresh"
    assert finding.share == 1.0
    assert finding.fix.endswith(
        f"or declare refresh=every('1h', lag='{lag}'): it would have made {compared} of {compared} served values equal;"
        f" with {DECLARED} it is {equal}."
    )
    (tmp_path / "other").mkdir()
    assert under(world, tmp_path / "other", world.logged(), every("1h", lag=lag)) == (compared, compared)
    world.store.close()


@pytest.mark.parametrize("is_foreign", [False, True])
def test_lateness_is_told_in_minutes_after_what_was_promised(tmp_path, is_foreign):
    world = late_world(tmp_path, lambda hour: 40 if hour == 27 else 25)
    report = world.audit_foreign(world.logged()) if is_foreign else world.audit()
    told = [line for line in report.findings[0].evidence if "came late" in line]
    longest, median = ("32m", "17m") if is_foreign else ("30m", "15m")
    assert told == [
        f"spend (every 1h, lag 10m): 10 refreshes came late, up to {longest} after they were promised, median {median};"
        f" the worst was that of {format_instant(at(27))}"
    ]
    world.store.close()


def test_no_refresh_is_proposed_where_the_state_stood_still(tmp_path):
    world = SmallWorld(tmp_path, refresh=every("1h", lag="10m"))
    world.write(payments(1_500, seed=7))
    world.open()
    world.run(24 + 10 / 60)
    for number in range(100):
        world.ask(26 + number / 10, f"u{number % USERS}")
    (finding,) = world.audit().findings
    assert "no refresh=every(…)" in finding.fix
    assert any("had not come by" in line for line in finding.evidence)
    world.store.close()


def test_slower_runs_than_declared_are_told(tmp_path):
    """Runs of every second hour."""
    world = late_world(tmp_path, lambda hour: 15 if hour % 2 == 0 else 99)
    (finding,) = world.audit().findings
    assert "or declare refresh=every('2h', lag='15m')" in finding.fix
    world.store.close()


def test_two_causes_together_keep_the_fix_of_the_second(tmp_path):
    world = SmallWorld(tmp_path, refresh=every("1h", lag="10m"))
    world.write(payments(1_500, seed=7))
    world.open()
    world.run(30)
    for number in range(120):
        answer = world.ask(33 + number / 20, f"u{number % USERS}")
        place = answer.columns.index("spend__total")
        rows = [[value * 100 if i == place and value else value for i, value in enumerate(answer.rows[0])]]
        world.log(answer, number, rows=rows)
    found = next(one for one in world.audit().findings if one.cause == "missed_refresh + unit_or_scale")
    assert found.fix.startswith("Refresh spend as often and as soon as promised (every 1h, lag 10m)")
    assert "times 100" in found.fix
    world.store.close()


def test_a_view_without_a_grid_is_told_how_old_its_state_was(tmp_path):
    world = late_world(tmp_path, lambda _: 25, refresh=continuous())
    found = next(one for one in world.audit().findings if "missed_refresh" in one.cause)
    assert any(
        line.startswith("spend (continuous): the state was complete only up to 45m30s") for line in found.evidence
    )
    assert found.fix.startswith("Refresh spend more often")
    world.store.close()


def test_shares_of_a_sample_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lateness, "_MOST_ROWS", 60)
    world = late_world(tmp_path, lambda _: 25)
    (finding,) = world.audit().findings
    assert re.search(r"about \d+\.\d% of its served values equal; .* \(both estimated from 60 rows\)", finding.fix)
    world.store.close()


def test_every_finding_of_a_missed_refresh_has_a_fix(tmp_path):
    """Also that of a log without watermarks."""
    world = late_world(tmp_path, lambda hour: 99 if hour in (26, 27) else 12)
    report = world.audit_foreign(world.logged())
    assert report.findings
    assert all(finding.fix for finding in report.findings)
    world.store.close()
