"""The whole story on real flights: ``python -m feature_definitions.demo`` (or ``make demo``).

convert → apply → training set → model, beside what a leaking join seems to give → materialize → serve one December day
over HTTP → audit: equal to the bit → serve from stale state, rewrite the data → audits that catch both.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

import feature_definitions
from feature_definitions.conversion import convert
from feature_definitions.flights import LATE_MINUTES, REFRESH, flight_delay
from featurestore import FeatureStore
from featurestore.skew.render import render

OUTPUT = Path("demo_output")
AHEAD = pd.Timedelta(hours=2)
DAY = pd.Timestamp("2013-12-11", tz="America/New_York").tz_convert("UTC")
STALE_HOURS = 10
KEYS = ["carrier", "origin", "dest", "tailnum"]
LEAKING_KEYS = {"carrier": ["carrier"], "origin": ["origin"], "route": ["origin", "dest"], "plane": ["tailnum"]}
CONFIG = """definitions = "feature_definitions"

[serving_log]
flush_seconds = 0.5
"""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


def main() -> int:
    """Run the demo; return 0 if everything it claims held."""
    began = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    (OUTPUT / "featurestore.toml").write_text(CONFIG)
    say("1. Convert the flights of 2013 to Parquet")
    flights = convert(OUTPUT / "data")
    flights["as_of"] = flights["sched_dep"] - AHEAD
    flights["late"] = (flights["arr_delay"] > LATE_MINUTES).astype("int64")
    console.print(f"   {len(flights):,} flights landed, {flights['late'].mean():.1%} of them late")
    with FeatureStore.open(OUTPUT) as store:
        say("2. Apply the definitions")
        store.apply(feature_definitions)
        plan = store.plan(flight_delay.name)
        console.print(f"   {len(plan.outputs)} features, plan {plan.fingerprint[:12]}")
        aucs = learn(store, flights)
        day = serve_a_day(store, flights)
        verdicts = audits(store, *day)
    report_end(aucs, verdicts, time.perf_counter() - began)
    return 0 if verdicts == ["pass", "fail", "fail"] else 1


def say(text: str) -> None:
    """Print a step's heading."""
    console.print(f"[bold]{text}[/bold]")


def learn(store: FeatureStore, flights: pd.DataFrame) -> tuple[float, float]:
    """Train on January to October, score November; return the honest AUC and the one a leaking join seems to give."""
    say("3. Training set for January to October, test set for November")
    spine = flights[[*KEYS, "sched_dep", "distance", "as_of", "late"]].copy()
    spine["distance"] = spine["distance"].astype("float64")
    month = flights["sched_dep"].dt.tz_convert("America/New_York").dt.month
    began = time.perf_counter()
    train = store.training_set(flight_delay.name, spine[month <= 10], OUTPUT / "training")
    test = store.training_set(flight_delay.name, spine[month == 11], OUTPUT / "test")
    seconds = time.perf_counter() - began
    console.print(f"   {train.row_count + test.row_count:,} rows in {seconds:.1f} s, {train.path}")
    say("4. Train a model")
    features = [output.name for output in store.plan(flight_delay.name).outputs if output.dtype.kind != "string"]
    honest = auc(train.to_pandas(), test.to_pandas(), features)
    leaking = with_leak(flights)
    leaked = auc(leaking[month <= 10], leaking[month == 11], [c for c in leaking.columns if c.startswith("day_")])
    console.print(f"   AUC in November: {honest:.3f} with point-in-time features")
    console.print(f"   AUC a join on the day seems to give: {leaked:.3f}, from delays nobody knew two hours before")
    return honest, leaked


def auc(train: pd.DataFrame, test: pd.DataFrame, features: Sequence[str]) -> float:
    """Fit gradient boosting on one frame and return its AUC on the other."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    model = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.1, random_state=0)
    model.fit(matrix(train, features), train["late"])
    return float(roc_auc_score(test["late"], model.predict_proba(matrix(test, features))[:, 1]))


def matrix(frame: pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    """Return features as floats, null as NaN."""
    return frame[list(features)].astype("float64").to_numpy()


def with_leak(flights: pd.DataFrame) -> pd.DataFrame:
    """Join averages of the whole day, as a join on the date does: they hold the flight's own delay and later ones."""
    frame = flights[["late"]].copy()
    day = flights["sched_dep"].dt.tz_convert("America/New_York").dt.date
    for name, keys in {
        "carrier": ["carrier"],
        "origin": ["origin"],
        "route": ["origin", "dest"],
        "plane": ["tailnum"],
    }.items():
        grouped = flights["arr_delay"].groupby([day, *(flights[key] for key in keys)])
        frame[f"day_{name}_mean_delay"] = grouped.transform("mean")
        frame[f"day_{name}_flights"] = grouped.transform("size")
    return frame


def serve_a_day(store: FeatureStore, flights: pd.DataFrame) -> tuple[pd.Timestamp, pd.Timestamp, pd.Timestamp]:
    """Serve one December day over HTTP while time goes on, then some hours without a refresh.

    Returns:
        When the day began and ended, and when the hours without a refresh did.
    """
    end, stale_end = DAY + pd.Timedelta(days=1), DAY + pd.Timedelta(days=1, hours=STALE_HOURS)
    say("5. Materialize up to the day before")
    runs = store.materialize(DAY.to_pydatetime())
    console.print(f"   {sum(run.events for run in runs):,} events, {sum(run.entities for run in runs):,} entity states")
    say(f"6. Serve {DAY.date()} over HTTP, refreshing every half hour, then {STALE_HOURS} hours without")
    asked = flights[(flights["as_of"] >= DAY) & (flights["as_of"] < stale_end)]
    # As often as the definitions say: every half hour, ten minutes after it.
    ticks = pd.date_range(DAY, end, freq=pd.Timedelta(microseconds=REFRESH.period_us))
    ticks += pd.Timedelta(microseconds=REFRESH.lag_us)
    began = time.perf_counter()
    refreshing = 0.0
    served = 0
    with server() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for tick, following in zip([DAY, *ticks], [*ticks, stale_end], strict=True):
            started = time.perf_counter()
            store.materialize(min(tick, end).to_pydatetime())
            refreshing += time.perf_counter() - started
            group = asked[(asked["as_of"] >= tick) & (asked["as_of"] < following)]
            for instant, rows in group.groupby("as_of"):
                served += ask(connection, pd.Timestamp(instant), rows)
        connection.close()
    seconds = time.perf_counter() - began - refreshing
    console.print(
        f"   {served:,} flights asked about in {seconds:.1f} s, {len(ticks) + 1} refreshes in {refreshing:.1f} s"
    )
    return DAY, end, stale_end


def ask(connection: http.client.HTTPConnection, as_of: pd.Timestamp, rows: pd.DataFrame) -> int:
    """Ask about all flights of one instant in one request; return how many were answered."""
    body = {
        "service": flight_delay.name,
        "as_of": as_of.isoformat(),
        "entities": rows[KEYS].to_dict("records"),
        "request": [
            {"sched_dep": sched_dep.isoformat(), "distance": float(distance)}
            for sched_dep, distance in zip(rows["sched_dep"], rows["distance"], strict=True)
        ],
    }
    connection.request("POST", "/v1/features", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}: {answer}")
    return len(answer["rows"])


@contextmanager
def server() -> Iterator[int]:
    """Run the real server on a free port, and stop it by its pid."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "server", "--config", str(OUTPUT / "featurestore.toml"), "--port", str(port)]
    with (OUTPUT / "server.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until_ready(process, port)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server can answer."""
    for _ in range(300):
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start; see {OUTPUT / 'server.log'}")


def audits(store: FeatureStore, begin: pd.Timestamp, end: pd.Timestamp, stale_end: pd.Timestamp) -> list[str]:
    """Audit the day, the hours without a refresh, and the day again over rewritten data; return the verdicts."""
    say("7. Audit the day: recompute every served value offline")
    equal = store.audit(flight_delay.name, since=begin.to_pydatetime(), until=end.to_pydatetime())
    console.print(f"   {equal.verdict}: {equal.compared:,} rows, {'; '.join(equal.reasons)}")
    say(f"8. Audit the {STALE_HOURS} hours in which nothing was refreshed")
    stale = store.audit(flight_delay.name, since=end.to_pydatetime(), until=stale_end.to_pydatetime())
    console.print(render(stale))
    say("9. Rewrite history: United's delays grow by five minutes; audit the day again")
    path = OUTPUT / "data" / "arrivals.parquet"
    original = path.read_bytes()
    arrivals = pd.read_parquet(path)
    arrivals.loc[arrivals["carrier"] == "UA", "arr_delay"] += 5
    arrivals.to_parquet(path, index=False)
    rewritten = store.audit(flight_delay.name, since=begin.to_pydatetime(), until=end.to_pydatetime())
    path.write_bytes(original)
    console.print(render(rewritten))
    for name, report in {"equal": equal, "stale": stale, "rewritten": rewritten}.items():
        (OUTPUT / f"audit_{name}.json").write_text(report.to_json())
    return [equal.verdict, stale.verdict, rewritten.verdict]


def report_end(aucs: tuple[float, float], verdicts: Sequence[str], seconds: float) -> None:
    """Say in a few lines what happened and where it lies."""
    say("Summary")
    console.print(f"   AUC {aucs[0]:.3f} honest, {aucs[1]:.3f} with a leak")
    console.print(
        f"   audits: the day {verdicts[0]}, without refreshes {verdicts[1]}, over rewritten data {verdicts[2]}"
    )
    console.print(f"   {seconds:.0f} s; written:")
    for path in sorted(OUTPUT.iterdir()):
        console.print(f"     {path}")


if __name__ == "__main__":
    sys.exit(main())
