"""A simulation of refresh policies as text for a terminal, and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from featurestore.core.temporal import format_duration
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.release.simulate import PolicyOutcome, Simulation
from featurestore.reports.charts import (
    BAD,
    CURRENT,
    Series,
    ranked,
    short,
)
from featurestore.reports.markup import element
from featurestore.reports.page import (
    page,
    pairs,
    panel,
    section,
    table,
)

_FEATURES = ("feature", "differ", "mean difference", "largest")
_HEAD = (
    *("refresh", "runs a day", "states a day", "staleness median", "95 %", "most", "values that differ"),
    *("most in", "its share", "mean difference", "largest"),
)
_TEXTS = (0, 7)
_NUMBERS = [place for place in range(len(_HEAD)) if place not in _TEXTS]


def render_text(simulation: Simulation) -> Table:
    """Return the simulation for a terminal: one line per policy."""
    grid = Table(title=_title(simulation), title_justify="left", box=None, pad_edge=False)
    for place, title in enumerate(_HEAD):
        grid.add_column(title, justify="left" if place in _TEXTS else "right", overflow="fold")
    for outcome in simulation.policies:
        grid.add_row(*_cells(outcome))
    return grid


def render_page(simulation: Simulation) -> str:
    """Return the simulation as one self-contained HTML file."""
    names = [outcome.refresh for outcome in simulation.policies]
    shares = Series("share", [outcome.share for outcome in simulation.policies], BAD)
    ages = Series("staleness", [outcome.staleness_s[1] / 60 for outcome in simulation.policies], CURRENT)
    return page(
        f"Refresh policies of {simulation.view}",
        element("header", element("h1", f"Refresh policies of {simulation.view}"), element("p", _title(simulation))),
        section(
            "Differences from fresh values, by refresh policy",
            pairs(
                (
                    panel(
                        "Values that differ from fresh ones",
                        ranked("Share of the values", names, [shares], is_share=True, most=1.0),
                    ),
                    panel("Staleness", ranked("95th percentile, in minutes", names, [ages], unit="min")),
                )
            ),
            table(_HEAD, [_cells(outcome) for outcome in simulation.policies], numbers=_NUMBERS),
        ),
        section(
            "Features under each refresh",
            pairs(
                panel(outcome.refresh, table(_FEATURES, list(_features(outcome)), numbers=(1, 2, 3)))
                for outcome in simulation.policies
                if outcome.share
            ),
        ),
    )


def _title(simulation: Simulation) -> str:
    return (
        f"{simulation.rows:,} questions from {simulation.since} to {simulation.until} ({simulation.questions}),"
        f" {simulation.not_found:.1%} of them about entities without events, compared with fresh values;"
        f" declared: {simulation.declared}; {short(simulation.events_per_day)} events are applied per day"
    )


def _cells(outcome: PolicyOutcome) -> list[str]:
    worst = outcome.worst
    ages = [format_duration(round(seconds) * 1_000_000) for seconds in outcome.staleness_s]
    runs = "every event" if outcome.runs_per_day is None else short(outcome.runs_per_day)
    where = [worst.name, f"{worst.share:.2%}", *_sizes(worst)] if worst.different else [""] * 4
    return [outcome.refresh, runs, short(outcome.states_per_day), *ages, f"{outcome.share:.2%}", *where]


def _sizes(feature: FeatureCounts) -> list[str]:
    """Return the mean and the largest absolute difference of a feature's numbers."""
    numbers = feature.numbers
    return ["", ""] if numbers is None else [short(numbers.mean_absolute), short(numbers.largest_absolute)]


def _features(outcome: PolicyOutcome) -> Iterator[list[str]]:
    for feature in sorted(outcome.features, key=lambda feature: (-feature.share, feature.name)):
        yield [feature.name, f"{feature.share:.2%}", *_sizes(feature)]
