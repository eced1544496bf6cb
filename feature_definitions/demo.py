"""The whole story on real flights: ``python -m feature_definitions.demo`` (or ``make demo``).

convert → apply → training set → model, beside what a leaking join seems to give → materialize → serve one December day
over HTTP → audit: equal to the bit → serve from stale state, rewrite the data, let a gateway alter values → audits that
catch all three. Everything it writes lies in ``demo_output``, which it empties first.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from feature_definitions.conversion import DemoDataError, convert
from feature_definitions.flights import LATE_MINUTES, NEW_YORK, REFRESH, flight_delay
from featurestore import FeatureStore
from featurestore.guard.audit.report import AuditReport

OUTPUT = Path("demo_output")
AHEAD = pd.Timedelta(hours=2)
DAY = pd.Timestamp("2013-12-11", tz=NEW_YORK).tz_convert("UTC")
STALE_HOURS = 10
SHOWN_FEATURES = 3
SHOWN_VALUES = 3
KEYS = ["carrier", "origin", "dest", "tailnum"]
GATEWAY_FEATURES = ("carrier_delays__mean_delay_7d", "plane_delays__mean_delay_7d", "origin_delays__flights_6h")
FLIGHT = ["carrier", "flight", "origin", "sched_dep"]
LEAKING_KEYS = {"carrier": ["carrier"], "origin": ["origin"], "route": ["origin", "dest"], "plane": ["tailnum"]}
LEAKING_FEATURES = [f"{name}_{what}_that_day" for name in LEAKING_KEYS for what in ("delay", "flights")]
CONFIG = """definitions = "feature_definitions.flights"

[server]
auth = "none"

[serving_log]
flush_seconds = 0.5
"""

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the demo; return 0 if everything it claims held."""
    began = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    (OUTPUT / "featurestore.toml").write_text(CONFIG)
    say("1. Convert the flights of 2013 to Parquet")
    try:
        flights = convert(OUTPUT / "data")
    except DemoDataError as error:
        console.print(f"   {error}")
        return 2
    flights["as_of"] = flights["sched_dep"] - AHEAD
    landed = flights[flights["landed_at"].notna()].assign(late=lambda frame: frame["arr_delay"] > LATE_MINUTES)
    note(f"{len(flights):,} flights; {len(landed):,} landed, {landed['late'].mean():.1%} of them late")
    with FeatureStore.open(OUTPUT) as store:
        say("2. Apply the definitions")
        store.apply()
        plan = store.plan(flight_delay.name)
        note(f"{len(plan.outputs)} features of {len(plan.uses)} views, plan {plan.fingerprint[:12]}")
        model, honest, leaking = learn(store, landed)
        answers, *instants = serve_a_day(store, flights)
        served = auc(model, answers.merge(landed[[*FLIGHT, "late"]], on=FLIGHT))
        note(f"AUC of the model on what was served: {served:.3f}")
        verdicts = audits(store, answers, *instants)
    report_end(honest, leaking, served, verdicts, time.perf_counter() - began)
    return 0 if verdicts == ["pass", "fail", "fail", "fail"] and honest < leaking else 1


def say(text: str) -> None:
    """Print a step's heading."""
    console.print(f"[bold]{text}[/bold]")


def note(text: str) -> None:
    """Print what came of a step."""
    console.print(f"   {text}")


def learn(store: FeatureStore, landed: pd.DataFrame) -> tuple[Model, float, float]:
    """Train on January to October and score November.

    Returns:
        The model; its AUC; and the AUC that a model on a leaking join seems to have.
    """
    say("3. Training set for January to October, test set for November")
    spine = landed[[*KEYS, "sched_dep", "distance", "as_of", "late"]]
    month = landed["sched_dep"].dt.tz_convert(NEW_YORK).dt.month
    is_training, is_test = month <= 10, month == 11
    began = time.perf_counter()
    train = store.training_set(flight_delay.name, spine[is_training], OUTPUT / "training", overwrite=True)
    test = store.training_set(flight_delay.name, spine[is_test], OUTPUT / "test", overwrite=True)
    seconds = time.perf_counter() - began
    note(f"{train.row_count + test.row_count:,} rows in {seconds:.1f} s, {train.path}")
    say("4. Train a model")
    features = [output.name for output in store.plan(flight_delay.name).outputs if output.dtype.kind != "string"]
    model = fit(train.to_pandas(), features)
    honest = auc(model, test.to_pandas())
    joined = with_leak(landed)
    leaking = auc(fit(joined[is_training], LEAKING_FEATURES), joined[is_test])
    note(f"AUC in November: {honest:.3f} with point-in-time features")
    note(f"AUC a join on the day seems to give: {leaking:.3f}, from delays nobody knew two hours before")
    return model, honest, leaking


@dataclass(frozen=True)
class Model:
    """A classifier and the columns it was fitted on."""

    classifier: Any
    features: Sequence[str]


def fit(frame: pd.DataFrame, features: Sequence[str]) -> Model:
    """Fit gradient boosting to tell late flights."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    classifier = HistGradientBoostingClassifier(max_iter=40, learning_rate=0.15, random_state=0)
    # On a busy machine several threads wait for each other in loops, and take three times as long as one.
    with threadpool_limits(1):
        classifier.fit(matrix(frame, features), frame["late"])
    return Model(classifier, features)


def auc(model: Model, frame: pd.DataFrame) -> float:
    """Score a model on other flights."""
    from sklearn.metrics import roc_auc_score

    scores = model.classifier.predict_proba(matrix(frame, model.features))[:, 1]
    return float(roc_auc_score(frame["late"], scores))


def matrix(frame: pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    """Return features as floats, null as NaN."""
    return frame[list(features)].astype("float64").to_numpy()


def with_leak(landed: pd.DataFrame) -> pd.DataFrame:
    """Join averages of the whole day, as a join on the date does: they hold the flight's own delay and later ones."""
    frame = landed[["late"]].copy()
    day = landed["sched_dep"].dt.tz_convert(NEW_YORK).dt.date
    for name, keys in LEAKING_KEYS.items():
        delays = landed["arr_delay"].groupby([day, *(landed[key] for key in keys)])
        frame[f"{name}_delay_that_day"] = delays.transform("mean")
        frame[f"{name}_flights_that_day"] = delays.transform("size")
    return frame


def serve_a_day(
    store: FeatureStore, flights: pd.DataFrame
) -> tuple[pd.DataFrame, pd.Timestamp, pd.Timestamp, pd.Timestamp]:
    """Serve one December day over HTTP while time goes on, then some hours without a refresh.

    Returns:
        What was answered; when the day began and ended, and when the hours without a refresh did.
    """
    end, stale_end = DAY + pd.Timedelta(days=1), DAY + pd.Timedelta(days=1, hours=STALE_HOURS)
    say("5. Materialize up to the day before")
    runs = store.materialize(DAY.to_pydatetime())
    note(f"{sum(run.events for run in runs):,} events, {sum(run.entities for run in runs):,} entity states")
    say(f"6. Serve {DAY.date()} over HTTP, refreshing every half hour, then {STALE_HOURS} hours without")
    asked = flights[(flights["as_of"] >= DAY) & (flights["as_of"] < stale_end)]
    # As often as the definitions say: every half hour, ten minutes after it.
    ticks = pd.date_range(DAY, end, freq=pd.Timedelta(microseconds=REFRESH.period_us))
    ticks += pd.Timedelta(microseconds=REFRESH.lag_us)
    began = time.perf_counter()
    refreshing = 0.0
    answers = []
    with server() as port, closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for tick, following in zip([DAY, *ticks], [*ticks, stale_end], strict=True):
            started = time.perf_counter()
            store.materialize(min(tick, end).to_pydatetime())
            refreshing += time.perf_counter() - started
            group = asked[(asked["as_of"] >= tick) & (asked["as_of"] < following)]
            answers += [ask(connection, pd.Timestamp(instant), rows) for instant, rows in group.groupby("as_of")]
    seconds = time.perf_counter() - began - refreshing
    note(f"{len(asked):,} flights asked about in {seconds:.1f} s, {len(ticks) + 1} refreshes in {refreshing:.1f} s")
    return pd.concat(answers), DAY, end, stale_end


def ask(connection: http.client.HTTPConnection, as_of: pd.Timestamp, rows: pd.DataFrame) -> pd.DataFrame:
    """Ask about all flights of one instant in one request; return which they are and their features."""
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
    values = pd.DataFrame([row["values"] for row in answer["rows"]], columns=answer["columns"])
    asked = rows[list(dict.fromkeys([*FLIGHT, *KEYS, "as_of"]))].reset_index(drop=True)
    return pd.concat([asked, values], axis=1)


@contextmanager
def server() -> Iterator[int]:
    """Run the real server on a free port, and stop it by its pid."""
    command = [
        sys.executable,
        "-m",
        "featurestore.server",
        "--config",
        str(OUTPUT / "featurestore.toml"),
        "--port",
        "0",
    ]
    path = OUTPUT / "server.log"
    with path.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield wait_for_port(process, path)
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_for_port(process: subprocess.Popen[bytes], path: Path) -> int:
    """Wait until the server listens; return the port it says it found."""
    for _ in range(600):
        found = re.search(r"serving on http://[^\s]+:(\d+)", path.read_text())
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start; see {path}")


def audits(
    store: FeatureStore, answers: pd.DataFrame, begin: pd.Timestamp, end: pd.Timestamp, stale_end: pd.Timestamp
) -> list[str]:
    """Audit the day, the hours without a refresh, rewritten data, and a gateway's own log; return the verdicts."""
    say("7. Audit the day: recompute every served value offline")
    equal = audit(store, "equal", begin, end)
    say(f"8. Audit the {STALE_HOURS} hours in which nothing was refreshed")
    stale = audit(store, "stale", end, stale_end)
    note(f"{stale.stale:,} of these {stale.compared:,} answers said themselves that they were behind their refresh")
    say("9. Rewrite history: United's delays grow by five minutes; audit the day again")
    with united_delayed(OUTPUT / "data" / "arrivals.parquet"):
        rewritten = audit(store, "rewritten", begin, end)
    say("10. Audit the log of a gateway between server and model, which keeps 32-bit floats and 0 for null")
    log, mapping = gateway(answers[answers["as_of"] < end])
    altered = store.audit_foreign(flight_delay.name, log, mapping)
    show(altered, "gateway")
    return [report.verdict for report in (equal, stale, rewritten, altered)]


def gateway(answers: pd.DataFrame) -> tuple[Path, Path]:
    """Write what a gateway would log of answers, and which column of it holds what."""
    log, mapping = OUTPUT / "gateway.parquet", OUTPUT / "gateway.toml"
    altered = answers.assign(
        carrier_delays__mean_delay_7d=answers["carrier_delays__mean_delay_7d"].astype("float32"),
        plane_delays__mean_delay_7d=answers["plane_delays__mean_delay_7d"].fillna(0.0),
    )
    altered.to_parquet(log, index=False)
    keys = "\n".join(f'{name} = "{name}"' for name in KEYS)
    features = "\n".join(f'{name} = "{name}"' for name in GATEWAY_FEATURES)
    mapping.write_text(f'as_of = "as_of"\n\n[keys]\n{keys}\n\n[features]\n{features}\n')
    return log, mapping


def audit(store: FeatureStore, name: str, since: pd.Timestamp, until: pd.Timestamp) -> AuditReport:
    """Audit what was served about a range of instants, and show it."""
    report = store.audit(flight_delay.name, since=since.to_pydatetime(), until=until.to_pydatetime())
    show(report, name)
    return report


def show(report: AuditReport, name: str) -> None:
    """Keep a report, and print what it found."""
    (OUTPUT / f"audit_{name}.json").write_text(report.to_json())
    values = report.compared * len(report.features)
    note(f"[bold]{report.verdict}[/bold]: {values - report.different:,} of {values:,} values are equal to the bit")
    if report.different:
        show_caught(report)


def show_caught(report: AuditReport) -> None:
    """Print the features that differ most often and the values that differ most."""
    different = sorted((f for f in report.features if f.different), key=lambda f: (-f.different, f.name))
    note(f"{len(different)} of {len(report.features)} features differ; most often:")
    for feature in different[:SHOWN_FEATURES]:
        note(f"  {feature.name}: {feature.different:,} of {feature.compared:,} values")
    note("the values that differ most, recomputed against served:")
    for worst in report.worst[:SHOWN_VALUES]:
        keys = ", ".join(f"{key} {value}" for key, value in worst.keys.items())
        recomputed, served = (value or "null" for value in (worst.reference, worst.current))
        note(f"  {worst.feature} at {worst.as_of} ({keys}): {recomputed} against {served}")
    note("why, proven by recomputing them under that assumption:")
    for finding in report.findings:
        note(f"  [bold]{finding.cause}[/bold], {finding.share:.1%} of the values that differ: {finding.said}")
        note(f"    {finding.fix}")


@contextmanager
def united_delayed(path: Path) -> Iterator[None]:
    """Let United's flights have landed five minutes later than they did, for a while."""
    original = path.read_bytes()
    arrivals = pd.read_parquet(path)
    arrivals.loc[arrivals["carrier"] == "UA", "arr_delay"] += 5
    try:
        arrivals.to_parquet(path, index=False)
        yield
    finally:
        path.write_bytes(original)


def report_end(honest: float, leaking: float, served: float, verdicts: Sequence[str], seconds: float) -> None:
    """Say in a few lines what happened and where it lies."""
    say("Summary")
    note(f"AUC {honest:.3f} in November, {served:.3f} on what was served; a leaking join promised {leaking:.3f}")
    kinds = ("the day", "without refreshes", "over rewritten data", "of the gateway")
    note(f"audits: {', '.join(map(' '.join, zip(kinds, verdicts, strict=True)))}")
    note(f"{seconds:.0f} s; written:")
    for path in sorted(OUTPUT.iterdir()):
        note(f"  {path}{'/' if path.is_dir() else ''}")
    since, until = DAY + pd.Timedelta(days=1), DAY + pd.Timedelta(days=1, hours=STALE_HOURS)
    note("the whole table of the stale hours:")
    note(
        f"  .venv/bin/featurestore --config {OUTPUT} audit {flight_delay.name}"
        f" --since {since.isoformat()} --until {until.isoformat()}"
    )


if __name__ == "__main__":
    sys.exit(main())
