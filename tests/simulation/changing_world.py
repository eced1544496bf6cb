"""A source whose options change while events are pushed and delivered; everything follows from a seed.

The oracle is a loop over everything that was acknowledged. It knows the rule of DESIGN and nothing of how events are
stored: the log keeps an event with the types it was pushed with, a plan converts what it reads to its own contract or
refuses, deliveries of one id are one event, and the log says when a pushed event became known.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.config import Config
from featurestore.core.errors import FeatureStoreError, SourceDataError, StateError
from featurestore.core.temporal import FixedClock, duration_us
from featurestore.offline.training_set import compute_reference
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.stores.store import MOST_PUSH_US
from tests.strategies import START_US, to_datetime

INSTANT = pa.timestamp("us", tz="UTC")
USERS, GROUPS = ("a", "b"), ("p", "q")
SECOND, HOUR = duration_us("1s"), duration_us("1h")
TOKYO_US = 9 * HOUR

CHOICES = {
    "event_id": (None, "eid", "eid", "gid"),
    "eid": ("int64", "int64", "string"),
    "gid": ("string", "string", "int64"),
    "x": ("int64", "float64", "decimal(18,2)", "decimal(18,4)", "decimal(18,2)", "decimal(18,4)", "string"),
    "ingest_time": (None, None, "known", "known2"),
    "event_time": ("at", "at", "at2"),
    "keys": (("user",), ("user",), ("user", "group")),
    "inclusive": (False, False, True),
    "on_null": ("error", "drop"),
    "has_where": (False, False, True),
    "timezone": ("UTC", "UTC", "Asia/Tokyo"),
    "reads_known": (False, True),
}
"""What an apply may say. Other options of a source stay as they are."""


@dataclass(frozen=True)
class Options:
    """The options of the source and of its view, as of one apply."""

    event_id: str | None = None
    eid: str = "int64"
    gid: str = "string"
    x: str = "int64"
    ingest_time: str | None = None
    event_time: str = "at"
    keys: tuple[str, ...] = ("user",)
    inclusive: bool = False
    on_null: str = "error"
    has_where: bool = False
    timezone: str = "UTC"
    reads_known: bool = False

    def changed(self, chance: random.Random) -> Options:
        """Return others, of which one to three options may differ."""
        names = set(chance.choices([*CHOICES, "event_id", "x", "x"], k=chance.randrange(1, 4)))
        return replace(self, **{name: chance.choice(CHOICES[name]) for name in sorted(names)})

    @property
    def dtypes(self) -> dict[str, str]:
        """The columns of the source."""
        times = dict.fromkeys(("at", "at2", "known", "known2"), "timestamp")
        return (
            {"user": "string", "group": "string", "flag": "bool"}
            | times
            | {name: getattr(self, name) for name in ("eid", "gid", "x")}
        )

    @property
    def columns(self) -> list[str]:
        """The columns that the plan reads, in the order in which contents are compared, without the ingest time."""
        names = {*self.keys, self.event_time, "x"} | ({"flag"} if self.has_where else set())
        names |= {"known"} if self.reads_known else set()
        names |= {self.event_id} if self.event_id is not None else set()
        return sorted(names - {self.ingest_time})

    def service(self, path: Path) -> FeatureService:
        """Return the definitions."""
        source = FileSource(
            "events",
            path=path / "*.parquet",
            dtypes=self.dtypes,
            event_time=self.event_time,
            ingest_time=self.ingest_time,
            event_id=self.event_id,
            inclusive=self.inclusive,
            on_null=self.on_null,
            timezone=self.timezone,
            stream=True,
        )
        features = {"n": agg.count().lifetime(), "hour": agg.count().over("1h"), "last": agg.last(col("x"))}
        features["kinds"] = agg.count_distinct(col("x")).lifetime()
        if self.x != "string":
            features["total"] = agg.sum(col("x")).lifetime()
        if self.reads_known:
            features["seen"] = agg.max(col("known")).lifetime()
        entity = Entity("_".join(self.keys), key=self.keys)
        where = (col("flag") == True) if self.has_where else None  # noqa: E712  # an expression
        return FeatureService(
            "model", features=[FeatureView("view", entity=entity, source=source, features=features, where=where)]
        )


class RefusedError(Exception):
    """A plan cannot read a value; nothing but a refusal is right."""


@dataclass(frozen=True)
class Row:
    """A delivery of an event.

    Attributes:
        values: Its columns.
        dtypes: What they are, where the row lies.
        ingest_us: When it became known to the log; ``None`` for a row of a file.
    """

    values: dict[str, Any]
    dtypes: dict[str, str]
    ingest_us: int | None


def converted(value: Any, have: str, want: str) -> Any:
    """Return a value in another dtype, exactly."""
    if have == want:
        return value
    kinds = (have.split("(", maxsplit=1)[0], want.split("(", maxsplit=1)[0])
    if kinds in {("float64", "string"), ("decimal", "string")}:
        raise RefusedError(kinds)
    if value is None:
        return None
    try:
        match kinds[1]:
            case "string":
                return str(value)
            case "float64":
                return float(value)
            case "int64":
                found = Decimal(str(value))
                if kinds[0] == "string" and not str(value).strip("-").isdigit():
                    raise RefusedError(value)
                if found != int(found):
                    raise RefusedError(value)
                return int(found)
            case "decimal":
                scale = Decimal(1).scaleb(-int(want.split(",")[1].rstrip(")")))
                exact = Decimal(str(value)).quantize(scale)
                if exact != Decimal(str(value)):
                    raise RefusedError(value)
                return exact
    except (ValueError, ArithmeticError):
        raise RefusedError(value) from None
    raise AssertionError(kinds)


def rank(value: Any) -> tuple:
    return (value is not None, value) if value is not None else (False,)


@dataclass
class Oracle:
    """Everything that was acknowledged, and what it comes to."""

    log: list[Row] = field(default_factory=list)
    outside: list[Row] = field(default_factory=list)

    def fresh(self, rows: list[Row], column: str | None) -> list[Row]:
        """Return those of some pushed rows that are not deliveries of an event that the log has."""
        if column is None:
            return rows
        dtype = rows[0].dtypes[column]
        seen = set(self.ids(column, dtype))
        best: dict[Any, Row] = {}
        for row in rows:
            one = row.values.get(column)
            if one is not None and (one not in best or _content(row) < _content(best[one])):
                best[one] = row
        kept = {id(row) for one, row in best.items() if one not in seen}
        return [row for row in rows if row.values.get(column) is None or id(row) in kept]

    def ids(self, column: str, dtype: str) -> list[Any]:
        """Return the ids of the log in a column."""
        return [
            converted(row.values[column], row.dtypes[column], dtype)
            for row in self.log
            if column in row.values and row.values[column] is not None
        ]

    def events(self, plan: Options, on_null: str) -> list[dict[str, Any]]:
        """Return the events of a plan, each once."""
        found = []
        for row in (*self.outside, *self.log):
            if any(self._value(row, name, plan) is None for name in (*plan.keys, plan.event_time)):
                if row.ingest_us is None and on_null == "error":
                    raise RefusedError("a null outside")
                continue
            found.append(self._event(row, plan))
        if plan.event_id is None:
            return found
        winners: dict[Any, dict[str, Any]] = {}
        for event in found:
            one = event[plan.event_id]
            order = (event["ingest"], [rank(event[name]) for name in plan.columns])
            if one is not None and (one not in winners or order < winners[one]["order"]):
                winners[one] = {**event, "order": order}
        return [event for event in found if event[plan.event_id] is None] + list(winners.values())

    def until(self, ingest_us: int) -> Oracle:
        """Return the same without the pushed events that became known from an instant on."""
        return Oracle([row for row in self.log if (row.ingest_us or 0) < ingest_us], self.outside)

    def may_refuse(self, plan: Options) -> bool:
        """Tell whether a plan cannot read some row, one perhaps that is no event of it and lies beside others."""
        try:
            for row in (*self.outside, *self.log):
                self._event(row, plan)
        except RefusedError:
            return True
        return False

    def answer(self, plan: Options, events: list[dict[str, Any]], key: dict[str, str], as_of_us: int) -> dict[str, Any]:
        """Return the features of an entity; of ``last`` all that it may be, if the order does not decide."""
        edge = as_of_us + plan.inclusive
        seen = [
            event
            for event in events
            if event[plan.event_time] < edge
            and event["ingest"] < edge
            and all(event[name] == value for name, value in key.items())
            and (not plan.has_where or event["flag"])
        ]
        values = [event["x"] for event in seen if event["x"] is not None]
        ordered = [event for event in seen if event["x"] is not None]
        newest = max(((event[plan.event_time], event["ingest"]) for event in ordered), default=None)
        answer = {
            "n": len(seen),
            "hour": sum(event[plan.event_time] >= as_of_us - HOUR for event in seen),
            "last": [e["x"] for e in ordered if (e[plan.event_time], e["ingest"]) == newest] or [None],
            "kinds": len(set(values)),
        }
        if plan.x != "string":
            answer["total"] = sum(values) if values else None
        if plan.reads_known:
            answer["seen"] = max((event["known"] for event in seen if event["known"] is not None), default=None)
        return answer

    def _event(self, row: Row, plan: Options) -> dict[str, Any]:
        """Return the columns of a row as a plan reads them, and its ingest time."""
        event = {name: self._value(row, name, plan) for name in plan.columns}
        outside = plan.ingest_time or plan.event_time
        event["ingest"] = self._value(row, outside, plan) if row.ingest_us is None else row.ingest_us
        if plan.reads_known and plan.ingest_time == "known":
            event["known"] = event["ingest"]
        return event

    @staticmethod
    def _value(row: Row, name: str, plan: Options) -> Any:
        if name not in row.values or (name == plan.ingest_time and row.ingest_us is not None):
            return None
        value = converted(row.values[name], row.dtypes[name], plan.dtypes[name])
        if row.ingest_us is None and name == "at2" and value is not None and plan.timezone == "Asia/Tokyo":
            return value - TOKYO_US  # files write local times in this column
        return value


def _content(row: Row) -> list[tuple]:
    return [rank(row.values.get(name)) for name in sorted(row.dtypes)]


class ChangingWorld:
    """The store, and another process that shares it and may still know the old definitions."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.files_folder = folder / "files"
        self.files_folder.mkdir(parents=True)
        self.clock = FixedClock(START_US)
        self.oracle = Oracle()
        self.options = Options()
        self.plans: dict[str, Options] = {}
        self.stamp = 0
        self.sent: list[dict[str, Any]] = []
        self.story: list[str] = []
        self.compared = {"training": 0, "online": 0, "refused": 0, "followed": 0}
        self.stores = [self._open(), self._open()]
        self.apply(self.options.changed(self.chance))

    def _open(self) -> FeatureStore:
        config = Config.local(self.folder / "store").model_copy(update={"threads": 1})
        return FeatureStore(config, clock=self.clock)

    @property
    def store(self) -> FeatureStore:
        return self.stores[0]

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def step(self) -> None:
        """Let some time pass, and do something."""
        self.clock.instant_us += self.chance.choice((1, 1, 1, SECOND, duration_us("10m"), 2 * HOUR))
        does = (self.push, self.push, self.push, self.deliver, self.change, self.change, self.compact, self.refill)
        does += (self.switch, self.restart, self.refresh)
        self.chance.choice(does)()

    def note(self, text: str) -> None:
        self.story.append(text)

    def change(self) -> None:
        """Apply other options, or those of an earlier apply again."""
        again = self.plans and self.chance.random() < 0.4
        self.apply(self.chance.choice([*self.plans.values()]) if again else self.options.changed(self.chance))

    def apply(self, options: Options) -> None:
        promote = self.chance.choice(("auto", "auto", False))
        self.note(f"apply {options} promote={promote}")
        try:
            self.store.apply(options.service(self.files_folder), promote=promote)
        except SourceDataError as error:
            if error.code != "event-id-dtype" or self._has_ids(options):
                raise
            self.note("  refused")
            return
        self.options = options
        self.plans[self.store.plan("model").fingerprint] = options

    def _has_ids(self, options: Options) -> bool:
        """Tell whether all events of the log have ids as some options declare them."""
        try:
            self.oracle.ids(options.event_id, options.dtypes[options.event_id])
        except RefusedError:
            return False
        return True

    def push(self) -> None:
        """Push events, some of them again; sometimes by a process that does not know of the last apply yet."""
        which = self.chance.choice((0, 0, 1))
        store = self.stores[which]
        intake = store.parts.streams._sources()["events"].schema
        declared = {name: str(dtype) for name, dtype in intake.dtypes.items()}
        given = [self._row(declared, intake) for _ in range(self.chance.randrange(1, 4))]
        self.note(f"push by {which}, event_id={intake.source.event_id}: {given}")
        result = store.push("events", given)
        names = sorted({name for row in given for name in row} | intake.required)
        ingest_us = result.ingest_time_us - 1
        rows = [
            Row({name: _plain(row.get(name)) for name in names}, {name: declared[name] for name in names}, ingest_us)
            for row in given
        ]
        fresh = self.oracle.fresh(rows, intake.source.event_id)
        assert result.accepted == len(fresh), (result, fresh)
        self.oracle.log += fresh
        self.compared["followed"] += result.is_followed

    def _row(self, declared: dict[str, str], intake: Any) -> dict[str, Any]:
        """Make an event, or take an earlier one with other values perhaps, as a source declares it now."""
        if self.sent and self.chance.random() < 0.4:
            base = dict(self.chance.choice(self.sent))
            if self.chance.random() < 0.4:
                base["x"] = self.chance.choice((1, 2, 3))
        else:
            base = self._made()
        self.sent.append(base)
        row = {}
        for name, dtype in declared.items():
            if name in intake.required or self.chance.random() < 0.6:
                row[name] = _declared(base[name], dtype)
        for name in intake.not_null & {"user", "group"}:
            row[name] = row[name] or "a"
        if row.get(intake.source.event_time) is None:
            row[intake.source.event_time] = to_datetime(self._instant())
        return row

    def _instant(self) -> int:
        """Return an instant that no other event has."""
        self.stamp += 1
        back = self.chance.choice((0, 0, duration_us("20m"), 3 * HOUR, duration_us("11h")))
        return self.clock.now_us() - SECOND - back + self.stamp

    def _made(self) -> dict[str, Any]:
        chance = self.chance
        at = self._instant()
        return {
            "user": chance.choice((*USERS, *USERS, None)),
            "group": chance.choice((*GROUPS, None)),
            "eid": chance.choice((None, *range(6))),
            "gid": chance.choice((None, "q", *map(str, range(8))))
            if chance.random() < 0.1
            else str(chance.randrange(8)),
            "x": chance.choice((None, 0, 1, 2, 3)) if chance.random() < 0.88 else chance.choice((2.5, 2.5, "q")),
            "flag": chance.choice((None, True, True, False)),
            "at": to_datetime(at),
            "at2": chance.choice((None, to_datetime(at), to_datetime(at - duration_us("5m")))),
            "known": chance.choice((None, to_datetime(self.clock.now_us() - 3 * HOUR))),
            "known2": chance.choice((None, to_datetime(self.clock.now_us() - 3 * HOUR))),
        }

    def deliver(self) -> None:
        """Write a file; its columns have types of their own, and local times in one of them."""
        # What is complete by now was answered before, also as of the beginning of a push that is not folded yet.
        self.clock.instant_us += MOST_PUSH_US
        kinds = {
            "user": pa.string(),
            "group": pa.string(),
            "eid": pa.int64(),
            "gid": pa.string(),
            "x": pa.int64(),
            "flag": pa.bool_(),
            "at": INSTANT,
            "at2": pa.timestamp("us"),
            "known": INSTANT,
            "known2": INSTANT,
        }
        made = []
        for _ in range(self.chance.randrange(1, 3)):
            base = (
                dict(self.chance.choice(self.sent[-9:])) if self.sent and self.chance.random() < 0.4 else self._made()
            )
            known = to_datetime(self.clock.now_us())
            x = base["x"] if isinstance(base["x"], int) else 1
            made.append({**base, "x": x, "user": base["user"] or "a", "known": known, "known2": known})
        made = [{**row, "group": row["group"] or "p", "at2": row["at2"] or row["at"]} for row in made]
        columns = {
            name: pa.array([row[name] for row in made], INSTANT if name == "at2" else kind).cast(kind)
            for name, kind in kinds.items()
        }
        self.note(f"deliver {made}")
        count = len(list(self.files_folder.iterdir()))
        pq.write_table(pa.table(columns), self.files_folder / f"{count:03d}.parquet")
        dtypes = {"user": "string", "group": "string", "eid": "int64", "gid": "string", "x": "int64", "flag": "bool"}
        dtypes |= dict.fromkeys(("at", "at2", "known", "known2"), "timestamp")
        self.oracle.outside += [Row({name: _plain(row[name]) for name in kinds}, dtypes, None) for row in made]

    def refresh(self) -> None:
        self._materialize(full=False)

    def refill(self) -> None:
        self._materialize(full=True)

    def _materialize(self, *, full: bool) -> None:
        self.note(f"materialize full={full}")
        self.clock.instant_us += 1
        try:
            self.store.materialize(full=full)
        except FeatureStoreError as error:
            self.note(f"  failed: {error}")
        if self._expected(self.options) is not None and not self.oracle.may_refuse(self.options):
            answer = self._ask(self.store.plan("model"))
            assert answer is not None, "the applied plan has no state after a run"
            complete = answer.views["view"].complete_until_us
            assert complete == answer.as_of_us - self.options.inclusive, "the applied plan is behind after a run"

    def compact(self) -> None:
        self.note("compact")
        self.store.compact(before=to_datetime(self.clock.now_us() - self.chance.choice((0, HOUR))))

    def restart(self) -> None:
        which = self.chance.randrange(2)
        self.note(f"restart {which}")
        self.stores[which].close()
        self.stores[which] = self._open()

    def switch(self) -> None:
        """Promote, roll back, or remove what nothing needs."""
        does = self.chance.choice(("promote", "rollback", "gc"))
        self.note(does)
        try:
            self.store.gc() if does == "gc" else getattr(self.store, does)("model")
        except StateError as error:
            if error.code not in ("not-materialized", "nothing-to-roll-back"):
                raise

    def check(self) -> None:
        """Compare both roads of every plan that was ever applied with the oracle."""
        try:
            self.store.catch_up()
        except FeatureStoreError as error:
            self.note(f"  catch_up failed: {error}")
        live = self.store.status()[0].live
        for plan in self.store.parts.catalog.past_plans("model"):
            options = self.plans[plan.fingerprint]
            self._check_online(plan, options)
            if plan.fingerprint in (live, self.store.plan("model").fingerprint):
                self._check_training(plan, options, self._expected(options))

    def _expected(self, options: Options) -> list[dict[str, Any]] | None:
        try:
            return self.oracle.events(options, self.options.on_null)
        except RefusedError:
            return None

    def _check_online(self, plan: Any, options: Options) -> None:
        answer = self._ask(plan)
        if answer is None or answer.views["view"].complete_until_us < answer.as_of_us - options.inclusive:
            return
        # What became known later, an event that the plan cannot read perhaps, is not in the answer.
        oracle = self.oracle.until(answer.as_of_us + options.inclusive)
        try:
            events = oracle.events(options, self.options.on_null)
        except RefusedError as error:
            raise AssertionError(f"online state is complete although an event is unreadable: {options}") from error
        for place, key in enumerate(_entities(options)):
            named = dict(zip(answer.columns, answer.rows[place], strict=True))
            self._compare("online", options, named, oracle.answer(options, events, key, answer.as_of_us), key)

    def _ask(self, plan: Any) -> Any:
        try:
            return OnlineReader(plan, self.store.parts.online, self.clock).get(_entities(self.plans[plan.fingerprint]))
        except StateError as error:
            if error.code != "not-materialized":
                raise
            return None

    def _check_training(self, plan: Any, options: Options, events: list[dict[str, Any]] | None) -> None:
        keys = _entities(options)
        spine = pa.table(
            {name: [key[name] for key in keys] for name in options.keys}
            | {"as_of": pa.array([self.clock.now_us()] * len(keys), pa.int64()).cast(INSTANT)}
        )
        sources = self.store.parts.catalog.sources(["events"])
        try:
            features, _ = compute_reference(plan, spine, sources=sources, settings=self.store.parts.settings)
        except FeatureStoreError as error:
            self.compared["refused"] += 1
            is_old = any(self.options.dtypes[name] != options.dtypes[name] for name in options.columns)
            if not self.oracle.may_refuse(options) and events is not None and not (self.oracle.outside and is_old):
                error.add_note(f"the applied plan can read all events: {options}")
                raise
            return
        assert events is not None, f"a training set was built although the plan cannot read an event: {options}"
        columns = {name: array.to_pylist() for name, array in features.values.items()}
        for place, key in enumerate(keys):
            row = {name: column[place] for name, column in columns.items()}
            expected = self.oracle.answer(options, events, key, self.clock.now_us())
            self._compare("training", options, row, expected, key)

    def _compare(self, road: str, options: Options, got: dict[str, Any], want: dict[str, Any], key: Any) -> None:
        plain = {name.removeprefix("view__"): _plain(value) for name, value in got.items()}
        last = plain.pop("last")
        allowed = want.pop("last")
        assert (plain, last in allowed) == (want, True), f"{road} of {options}, {key}: {plain} {last} {want} {allowed}"
        assert type(last) in {type(one) for one in allowed}
        self.compared[road] += 1


def _entities(options: Options) -> list[dict[str, str]]:
    values = {"user": USERS, "group": GROUPS}
    return [dict(zip(options.keys, one, strict=True)) for one in product(*(values[name] for name in options.keys))]


def _plain(value: Any) -> Any:
    """Return instants as microseconds."""
    return round(value.timestamp() * 1e6) if hasattr(value, "timestamp") else value


def _declared(value: Any, dtype: str) -> Any:
    """Return a value as a caller writes it for a dtype; another one if it cannot be."""
    if value is None or dtype in ("timestamp", "bool"):
        return value
    if dtype == "string":
        return str(value)
    if not isinstance(value, int | float) and not str(value).isdigit():
        value = 4
    match dtype:
        case "int64":
            return int(value)
        case "float64":
            return float(value)
        case _:
            return Decimal(str(value)).quantize(Decimal(1).scaleb(-int(dtype.split(",")[1].rstrip(")"))))
