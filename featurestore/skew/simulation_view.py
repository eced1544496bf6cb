"""A simulation on a terminal and as a page, for a person who has to choose."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from featurestore.render.charts import CURRENT, ranked, short
from featurestore.render.markup import element
from featurestore.render.page import page, panel, table
from featurestore.skew.simulation import PolicyOutcome, Simulation
from featurestore.temporal import format_duration

_FEATURES = ("feature", "differ", "mean difference", "largest")
_HEAD = ("refresh", "runs a day", "staleness median", "95 %", "most", "values that differ", "most in", "its share")


def render(simulation: Simulation) -> Table:
    """Return one line per policy."""
    found = Table(title=_title(simulation), title_justify="left", box=None, pad_edge=False)
    for place, title in enumerate(_HEAD):
        found.add_column(title, justify="left" if place in (0, 6) else "right")
    for outcome in simulation.policies:
        found.add_row(*_cells(outcome))
    return found


def render_html(simulation: Simulation) -> str:
    """Return the simulation as one HTML file that needs nothing else."""
    shares = [(outcome.refresh, outcome.share) for outcome in simulation.policies]
    ages = [(outcome.refresh, outcome.staleness_s[1] / 60) for outcome in simulation.policies]
    return page(
        f"Refresh policies of {simulation.view}",
        element("header", element("h1", f"Refresh policies of {simulation.view}"), element("p", _title(simulation))),
        panel("Values that differ from fresh ones", ranked("share of values", shares, percent=True)),
        panel("Staleness", ranked("minutes, 95th percentile", ages, colors=[CURRENT] * len(ages))),
        table(_HEAD, [_cells(outcome) for outcome in simulation.policies], numbers=(1, 2, 3, 4, 5, 7)),
        *(
            panel(outcome.refresh, table(_FEATURES, list(_features(outcome)), numbers=(1, 2, 3)))
            for outcome in simulation.policies
            if outcome.share
        ),
    )


def _title(simulation: Simulation) -> str:
    return (
        f"{simulation.rows:,} questions from {simulation.since} to {simulation.until}, beside values that are always"
        f" fresh; declared is {simulation.declared}"
    )


def _cells(outcome: PolicyOutcome) -> list[str]:
    worst = max(outcome.features, key=lambda feature: feature.share)
    ages = [format_duration(round(seconds) * 1_000_000) for seconds in outcome.staleness_s]
    runs = "every event" if outcome.runs_per_day is None else short(outcome.runs_per_day)
    where = [worst.name, f"{worst.share:.2%}"] if worst.different else ["", ""]
    return [outcome.refresh, runs, *ages, f"{outcome.share:.2%}", *where]


def _features(outcome: PolicyOutcome) -> Iterator[list[str]]:
    for feature in sorted(outcome.features, key=lambda feature: (-feature.share, feature.name)):
        numbers = feature.numbers
        sizes = ["", ""] if numbers is None else [short(numbers.mean_absolute), short(numbers.largest_absolute)]
        yield [feature.name, f"{feature.share:.2%}", *sizes]
