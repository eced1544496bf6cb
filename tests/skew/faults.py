"""Faults that are planted in served answers: one way, at least, to come to every cause that an audit can name."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from featurestore import continuous
from featurestore.core.answers import OnlineFeatures
from featurestore.core.statuses import codes_of
from tests.skew.shop import (
    END_US,
    EVENTS,
    HOUR,
    USERS,
    Row,
    Shop,
    answers,
    ask,
    frozen,
    moved,
    opened,
    payments,
    questions,
    service_of,
    thawed,
    write_rows,
)

Answers = Sequence[OnlineFeatures]


@dataclass(frozen=True)
class Fault:
    """A way in which served answers are not what the training set has.

    Attributes:
        name: What the fault is called.
        cause: The cause an audit should name.
        truth: The shop as it is defined and recomputed.
        served: Gives the answers as they are served, one per question.
        prepare: What happens to the truth's store before it is audited: (store, folder).
        is_in_store: Whether that alone spoils answers: then rows in which nothing was planted differ too.
    """

    name: str
    cause: str
    truth: Callable[[], Shop]
    served: Callable[[], Answers]
    prepare: Callable[[Any, Path], None] = lambda store, folder: None
    is_in_store: bool = False


@cache
def true_shop() -> Shop:
    return Shop(payments())


def changed_rows(change: Callable[[list[Row], random.Random], list[Row]], **options: Any) -> Callable[[], Answers]:
    """Serve from a shop with other rows."""
    return lambda: answers(replace(true_shop(), rows=frozen(change(thawed(payments()), random.Random(3))), **options))


def other_shop(**options: Any) -> Callable[[], Answers]:
    """Serve from a shop that is set up otherwise."""
    return lambda: answers(replace(true_shop(), **options))


def altered(
    change: Callable[[str, Any, str, int], tuple[Any, str]], shop: Callable[[], Shop] = true_shop
) -> Callable[[], Answers]:
    """Serve the right answers through a program that alters values: (column, value, status, question) to the same."""

    def serve() -> Answers:
        found = []
        for place, answer in enumerate(answers(shop())):
            pairs = [
                change(column, value, status, place)
                for column, value, status in zip(answer.columns, answer.rows[0], answer.statuses[0], strict=True)
            ]
            codes = codes_of([status for _, status in pairs])
            found.append(replace(answer, rows=[[value for value, _ in pairs]], codes=codes))
        return found

    return serve


def asking(change: Callable[[int], dict[str, Any]]) -> Callable[[], Answers]:
    """Ask the right shop something else than is logged."""

    @cache
    def serve() -> Answers:
        with opened(true_shop(), Path(mkdtemp())) as store:
            found = []
            for place, question in enumerate(questions()):
                asked = ask(store, question, **change(place))
                logged = {"entities": [{"user": question.user}], "requests": [{"limit": question.limit}]}
                found.append(replace(asked, as_of_us=question.as_of_us, **logged))
            return found

    return serve


def of_floats(change: Callable[[float], float], *names: str) -> Callable[[str, Any, str, int], tuple[Any, str]]:
    return lambda column, value, status, _: (
        (change(value), status) if isinstance(value, float) and (not names or column in names) else (value, status)
    )


def as_float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def _filled(column: str, value: Any, status: str, _: int) -> tuple[Any, str]:
    return (0.0, "PRESENT") if value is None and column == "spend__last" else (value, status)


def _plain_null(_: str, value: Any, status: str, __: int) -> tuple[Any, str]:
    return value, "NULL" if status == "EXPIRED" else status


def _missing(column: str, value: Any, status: str, _: int) -> tuple[Any, str]:
    if column.startswith("hourly__"):
        return None, "NOT_FOUND"
    return value, status


def _lost(rows: list[Row], chance: random.Random) -> list[Row]:
    gone = {row["id"] for row in rows if chance.random() < 0.06}
    return [row for row in rows if row["id"] not in gone]


def _copied(rows: list[Row], chance: random.Random) -> list[Row]:
    return [*rows, *(row | {"id": f"again-{row['id']}"} for row in rows if chance.random() < 0.06)]


def _tied_last(rows: list[Row], _: random.Random) -> list[Row]:
    """Let the smallest of the payments at one instant stand last, by making the others known first: 1 µs before."""
    by_time: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        by_time.setdefault((row["user"], row["paid"], row["learned"]), []).append(row)
    found: list[Row] = []
    for group in by_time.values():
        ranked = sorted(group, key=lambda row: (row["amount"] is not None, row["amount"] or 0.0, row["kind"]))
        step = len(ranked) - 1
        found += [row | {"learned": row["learned"] - place} for place, row in enumerate(ranked)] if step else group
    return found


def _spelled(rows: list[Row], chance: random.Random) -> list[Row]:
    """Write some keys with spaces around."""
    return [row | {"user": f" {row['user']} "} if chance.random() < 0.15 else row for row in rows]


@cache
def spelled_shop() -> Shop:
    return Shop(frozen(_spelled(thawed(payments()), random.Random(5))))


def _rewritten(store: Any, folder: Path) -> None:
    """Change amounts in the source after everything was materialized and served."""
    rows = [
        row | {"amount": None if row["amount"] is None else row["amount"] + 1.0 + hash_of(row)}
        for row in thawed(payments())
    ]
    write_rows(folder, rows)


@cache
def undated_shop() -> Shop:
    """Return the true shop with a source that does not say when a payment became known."""
    return replace(true_shop(), ingest=False)


def _late_rows() -> list[Row]:
    chance = random.Random(11)
    rows = chance.sample(thawed(payments()), EVENTS // 16)
    return [row | {"id": f"late-{number}", "user": chance.choice(USERS)} for number, row in enumerate(rows)]


def _late_file(store: Any, folder: Path) -> None:
    """Let old payments come in a file of their own after everything was materialized and served."""
    write_rows(folder, _late_rows(), "1.parquet")


def _late_and_materialized(store: Any, folder: Path) -> None:
    """Let them come in the file that was read already, and the store read it again."""
    write_rows(folder, [*thawed(payments()), *_late_rows()])
    store.materialize()


def hash_of(row: Row) -> float:
    return float(sum(map(ord, row["id"])) % 7)


def _apply_again(store: Any, folder: Path) -> None:
    """Apply another definition first, so that the registry has it, then the true one."""
    store.apply(service_of(replace(true_shop(), window="2d"), folder))
    store.apply(service_of(true_shop(), folder))


@cache
def shop_of(serves: str) -> Shop:
    """Return the true shop with other features."""
    return replace(true_shop(), serves=serves)


def _at(name: str, change: Callable[[Any], Any]) -> Callable[[str, Any, str, int], tuple[Any, str]]:
    """Alter the values of one feature that has one."""
    return lambda column, value, status, _: (
        (change(value), status) if column == name and value is not None else (value, status)
    )


def of_kinds(name: str, cause: str, column: str, change: Callable[[Any], Any]) -> Fault:
    """Return a fault in one feature of the shop that serves values of all kinds."""
    shop = partial(shop_of, "kinds")
    return Fault(name, cause, shop, altered(_at(f"spend__{column}", change), shop))


def _emptied(column: str, value: Any, status: str, _: int) -> tuple[Any, str]:
    return ([], "PRESENT") if value is None and column == "spend__recent" else (value, status)


COUNTED = (
    Fault(
        "counted events lost",
        "event_lost",
        partial(shop_of, "a count"),
        changed_rows(_lost, serves="a count"),
    ),
    Fault(
        "counted events doubled",
        "duplicate_counted",
        partial(shop_of, "a count"),
        changed_rows(_copied, serves="a count"),
    ),
    Fault(
        "counts capped",
        "unexplained",
        partial(shop_of, "a count"),
        altered(_at("spend__payments_6h", lambda count: min(count, 3)), partial(shop_of, "a count")),
    ),
)
"""Faults of a service that serves nothing but a count."""

OF_KINDS = (
    of_kinds("lists turned around", "list_order", "recent", lambda items: items[::-1]),
    of_kinds("lists of float32", "precision", "recent", lambda items: [item and as_float32(item) for item in items]),
    of_kinds("decimal cents", "unit_or_scale", "price", lambda price: price * 100),
    of_kinds("instants five hours later", "time_zone", "paid", lambda paid: paid + timedelta(hours=5)),
    of_kinds("booleans inverted", "unit_or_scale", "is_large", lambda value: not value),
    of_kinds("text in capitals", "text_format", "kind", lambda kind: kind.upper()),
    of_kinds("text cut off", "text_format", "kind", lambda kind: kind[:4]),
    of_kinds("dates a day later", "unit_or_scale", "day", lambda day: day + timedelta(days=1)),
    of_kinds("instants a second later", "unit_or_scale", "paid", lambda paid: paid + timedelta(seconds=1)),
    Fault(
        "empty lists for null",
        "default_for_null",
        partial(shop_of, "kinds"),
        altered(_emptied, partial(shop_of, "kinds")),
    ),
)
"""Faults in values of many dtypes."""

FAULTS: tuple[Fault, ...] = (
    Fault("state older than promised", "missed_refresh", true_shop, other_shop(until_us=END_US - 14 * HOUR)),
    Fault("entity missing in one view", "entity_missing_online", true_shop, altered(_missing)),
    Fault("ingest time ignored", "late_event", true_shop, other_shop(ingest=False)),
    Fault(
        "rows came after the request",
        "late_event",
        undated_shop,
        other_shop(),
    ),
    Fault("served without the grid", "refresh_ahead", true_shop, other_shop(refresh=continuous())),
    Fault("another definition", "definition_changed", true_shop, other_shop(window="2d"), _apply_again),
    Fault("history rewritten", "source_rewritten", true_shop, lambda: answers(true_shop()), _rewritten, True),
    Fault(
        "rows came after they were read",
        "late_event",
        undated_shop,
        lambda: answers(undated_shop()),
        _late_file,
        True,
    ),
    Fault(
        "the same, and they were read since",
        "late_event",
        undated_shop,
        lambda: answers(undated_shop()),
        _late_and_materialized,
        True,
    ),
    Fault("<= for <", "boundary", true_shop, other_shop(inclusive=True)),
    Fault("equal times turned around", "tie_order", true_shop, changed_rows(_tied_last)),
    Fault("ttl ignored", "ttl_ignored", true_shop, other_shop(ttl="")),
    Fault("0 for null", "default_for_null", true_shop, altered(_filled)),
    Fault("expired logged as null", "default_for_null", true_shop, altered(_plain_null)),
    Fault("float32", "precision", true_shop, altered(of_floats(as_float32))),
    Fault("two decimals", "precision", true_shop, altered(of_floats(lambda value: round(value, 1)))),
    Fault("cents for units", "unit_or_scale", true_shop, altered(of_floats(lambda value: value * 100, "spend__sum"))),
    Fault("an offset", "unit_or_scale", true_shop, altered(of_floats(lambda value: value + 2.5, "hourly__total_12h"))),
    Fault(
        "windows end a day early",
        "window_shifted",
        true_shop,
        asking(lambda i: {"as_of_us": questions()[i].as_of_us - 24 * HOUR}),
    ),
    Fault(
        "asked about an hour early",
        "window_shifted",
        true_shop,
        asking(lambda i: {"as_of_us": questions()[i].as_of_us - HOUR}),
    ),
    Fault("times five hours off", "time_zone", true_shop, changed_rows(lambda rows, _: moved(rows, 5 * HOUR))),
    Fault(
        "the request before",
        "stale_request_input",
        true_shop,
        asking(lambda i: {"limit": previous_limit(i)}),
    ),
    Fault(
        "an input cut",
        "request_input_changed",
        true_shop,
        asking(lambda i: {"limit": float(int(questions()[i].limit))}),
    ),
    Fault("keys without zeros", "key_format", true_shop, asking(lambda i: {"user": questions()[i].user.lstrip("0")})),
    Fault(
        "spellings taken together",
        "key_format",
        spelled_shop,
        lambda: answers(replace(true_shop(), event_id=True)),
    ),
    Fault("every delivery counted", "duplicate_counted", true_shop, other_shop(event_id=False)),
    Fault("some events counted twice", "duplicate_counted", true_shop, changed_rows(_copied)),
    Fault("some events lost", "event_lost", true_shop, changed_rows(_lost)),
    *COUNTED,
    *OF_KINDS,
    Fault(
        "one of two sources five hours off",
        "time_zone",
        partial(shop_of, "two sources"),
        other_shop(serves="two sources", moved_us=5 * HOUR),
    ),
    Fault(
        "noise",
        "unexplained",
        true_shop,
        altered(
            lambda column, value, status, i: (
                (value * (1 + (i % 13 + 1) * 1e-3) + i, status)
                if column == "spend__sum" and value is not None
                else (value, status)
            )
        ),
    ),
)


def previous_limit(place: int) -> float:
    """Return what was asked with the entity's question before, or what is asked now if there is none."""
    asked = questions()
    before = [q.limit for q in asked[:place] if q.user == asked[place].user]
    return before[-1] if before else asked[place].limit
