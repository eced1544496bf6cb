"""Mistakes in definitions: one factory each, so that a mistake reads the same wherever it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from featurestore.core import errors
from featurestore.core.dtypes import DType
from featurestore.core.errors import (
    ConfigError,
    Mistake,
    did_you_mean,
    listing,
)
from featurestore.plan.names import LONGEST_NAME, SEPARATOR

Report = Callable[[Mistake], None]
"""Collects a mistake; the compiler goes on."""


def place(kind: str, name: object, feature: object = None) -> str:
    """Return the place of a definition or feature: ``"feature view 'spend', feature 'sum_7d'"``."""
    outer = f"{kind} '{name}'"
    return outer if feature is None else f"{outer}, feature '{feature}'"


def bad_name(where: str, name: object) -> Mistake:
    """Return the mistake of a name that is not valid."""
    hint = (
        f"Letters, digits and single underscores, a letter first, at most {LONGEST_NAME} characters; "
        f"'{SEPARATOR}' stands between view and feature."
    )
    return Mistake(where, f"{name!r} cannot be used as a name", hint, "bad-name")


def reserved_name(where: str, what: str, name: str) -> Mistake:
    """Return the mistake of a column that would shadow one that every spine has."""
    return Mistake(where, f"{what} '{name}' has a reserved name", "Give it another name.", "reserved-name")


def pushed_events_left_out(where: str, count: int) -> Mistake:
    """Return the mistake of a source that no longer accepts pushes although events were pushed to it."""
    events = "1 event that was pushed" if count == 1 else f"{count} events that were pushed"
    hint = "Keep stream=True, or give the source another name if these events should not count."
    return Mistake(where, f"without stream=True its {events} would no longer count", hint, "pushed-events")


def duplicate_name(where: str, what: str) -> Mistake:
    """Return the mistake of two definitions under one name."""
    return Mistake(where, f"there are two different {what} of this name", "Rename one of them.", "duplicate-name")


def duplicate_feature(where: str, name: str) -> Mistake:
    """Return the mistake of two features of one view under one name."""
    return Mistake(
        where, f"two features have the name '{name}'", "Name windows apart, or rename one.", "duplicate-feature"
    )


def wrong_kind(where: str, what: str, value: object, expected: str, hint: str = "") -> Mistake:
    """Return the mistake of an argument of a wrong Python type."""
    return Mistake(where, f"{what} is {_described(value)}, expected {expected}", hint, "wrong-argument")


def _described(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value) if isinstance(value, str | int | float | bool) else ""
    return f"{type(value).__name__} {text}".strip()


def nothing_in_it(where: str, hint: str) -> Mistake:
    """Return the mistake of a view or service without features."""
    return Mistake(where, "it has no features", hint, "empty")


def bad_option(where: str, option: str, value: object, expected: str) -> Mistake:
    """Return the mistake of an option outside its range."""
    return Mistake(where, f"{option} is {value!r}", f"Expected {expected}.", "bad-option")


def bad_policy(where: str, error: ConfigError) -> Mistake:
    """Return the mistake of a policy with a wrong key or value."""
    return Mistake(where, f"{error.where}: {error.problem}", error.hint, "bad-policy")


def unknown_tolerance(where: str, name: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of a tolerance for a feature that the service does not have."""
    problem = f"its policy has a tolerance for '{name}', which is not one of its columns"
    return Mistake(where, problem, listing("Columns", known, wrong=name), "bad-policy")


def unknown_dtype(where: str, problem: str) -> Mistake:
    """Return the mistake of a dtype that cannot be read; the problem's second sentence becomes the hint."""
    head, _, hint = problem.partition(". ")
    return Mistake(where, head, hint, "unknown-dtype")


def unknown_column(where: str, column: str, source: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of a column that a source does not have."""
    return errors.unknown_column(column, known, source=source).mistake(where)


def unread_source(where: str) -> Mistake:
    """Return the mistake of a source whose columns could not be read."""
    return Mistake(where, "its columns are not known", "Check that its path, table or query is right.", "unread-source")


def unsupported_column(where: str, column: str, source: str, kind: str) -> Mistake:
    """Return the mistake of using a column whose type has no dtype.

    Args:
        where: Where the column is used.
        column: Name of the column.
        source: Name of its source.
        kind: Type of the column, as the source names it; empty if it is not known.
    """
    shown = f" ({kind if len(kind) <= _LONGEST_TYPE else f'{kind[:_LONGEST_TYPE]}…'})" if kind else ""
    problem = f"column '{column}' of source '{source}' has a type that features cannot be made of{shown}"
    hint = "Convert it where the rows are written, to one of: bool, int64, float64, string, timestamp, date, decimal."
    if kind == NOT_UTF8:
        hint = "Name the encoding of the file: csv=CsvOptions(encoding='latin-1'), or 'cp1252'."
    if kind == "null" or ("list" in kind and "null" in kind and "struct" not in kind):
        example = "float64" if kind == "null" else "list<float64>"
        hint = f"It holds only nulls so far. Declare its dtype on the source: dtypes={{'{column}': '{example}'}}."
    return Mistake(where, problem, hint, "unsupported-column")


_LONGEST_TYPE = 100
NOT_UTF8 = "text that is not UTF-8"
"""The type of columns of CSV files with bytes that are not valid in their encoding."""


def wrong_dtype(where: str, what: str, got: DType, expected: str, hint: str = "") -> Mistake:
    """Return the mistake of a column or expression of a wrong dtype."""
    return Mistake(where, f"{what} is {got}, expected {expected}", hint, "wrong-dtype")


def look_ahead(where: str, what: str) -> Mistake:
    """Return the mistake of a feature over events that reads a value known only at request time."""
    problem = f"{what} is not known when an event happens"
    return Mistake(where, problem, "Compute this in an OnDemandFeatureView.", "look-ahead")


def missing_window(where: str, aggregation: str) -> Mistake:
    """Return the mistake of an aggregation without a window."""
    return Mistake(
        where, f"{aggregation} has no window", "Add .over('7d'), or .lifetime() for all events.", "missing-window"
    )


def ambiguous_window(where: str, count: int) -> Mistake:
    """Return the mistake of several windows under one name."""
    problem = f"{count} windows under one name"
    return Mistake(where, problem, "Put {window} into the name: 'mean_{window}'.", "ambiguous-window")


def empty_window(where: str, what: str) -> Mistake:
    """Return the mistake of a window or time to live of zero."""
    return Mistake(where, f"{what} of zero holds no event", "Give it a length: '1h'.", "empty-window")


def misplaced_ttl(where: str, aggregation: str) -> Mistake:
    """Return the mistake of a time to live on an aggregation other than a latest value."""
    problem = f"{aggregation} cannot have a ttl"
    return Mistake(where, problem, "Only agg.last can have one; bound others by .over(…).", "misplaced-ttl")


def unknown_feature(where: str, view: str, feature: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of a feature that a view does not have."""
    return errors.unknown_feature(feature, known, view=view).mistake(where)


def unknown_view(where: str, view: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of a reference by name to a view that is not defined."""
    return errors.unknown_view(view, known).mistake(where)


def column_on_demand(where: str, column: str) -> Mistake:
    """Return the mistake of reading a source's column where there are no events."""
    hint = f"Use a feature, view['{column}'], or an input of the request, request('{column}')."
    return Mistake(
        where, f"col('{column}') is a column of events, which on-demand features cannot read", hint, "no-columns"
    )


def undeclared_request(where: str, name: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of a request input without a dtype."""
    known = list(map(str, known))
    hint = f"Declare its dtype: request={{'{name}': 'float64'}}. {did_you_mean(name, known)}".rstrip()
    return Mistake(where, f"request input '{name}' is not declared", hint, "unknown-request")


def cycle(where: str, columns: Iterable[str]) -> Mistake:
    """Return the mistake of on-demand features that need each other."""
    return Mistake(where, f"it needs itself: {' → '.join(columns)}", "Remove one of these references.", "cycle")


def impure_udf(where: str, name: str, problem: str) -> Mistake:
    """Return the mistake of a function that might not give the same answer twice."""
    hint = "Let it be a function of its operands alone; give constants as operands or inside its body."
    return Mistake(where, f"udf '{name}' could give different answers: {problem}", hint, "impure-udf")


def impure_query(where: str, word: str) -> Mistake:
    """Return the mistake of a query that could return other rows when it is repeated."""
    problem = f"the query uses {word}, so it could give different rows when it is repeated"
    return Mistake(where, problem, "Leave it out: features use as_of, not the clock.", "impure-query")


def unknown_key(where: str, key: str, entity: str, known: Iterable[str]) -> Mistake:
    """Return the mistake of binding a key that an entity does not have."""
    problem = f"'{key}' is not a key of entity '{entity}'"
    return Mistake(where, problem, listing("Keys", map(str, known), wrong=str(key)), "unknown-key")


def alias_taken(where: str, alias: str) -> Mistake:
    """Return the mistake of one alias for two views, or for one view with two bindings of its keys."""
    problem = f"'{alias}' stands for two different things"
    hint = f"Give one of them another alias: view.aliased('other_{alias}', keys={{…}})."
    return Mistake(where, problem, hint, "alias-taken")


def aliased_on_demand(where: str, view: str) -> Mistake:
    """Return the mistake of an alias for a view that has no keys of its own."""
    problem = f"on-demand feature view '{view}' cannot be aliased"
    return Mistake(where, problem, "Define another one over the aliased views it needs.", "aliased-on-demand")


def output_collision(where: str, name: str, columns: Iterable[str]) -> Mistake:
    """Return the mistake of two columns of an answer under one name."""
    first, second = columns
    what = f"'{first}' twice" if first == second else f"both '{first}' and '{second}'"
    hint = "List it once, or rename one: view['feature'].renamed('other'), view.prefixed('other')."
    return Mistake(where, f"column '{name}' of the answer would show {what}", hint, "output-collision")


def output_taken(where: str, name: str, what: str) -> Mistake:
    """Return the mistake of a column of the answer named like a column of the spine."""
    problem = f"column '{name}' of the answer has the name of {what}"
    return Mistake(where, problem, "Rename it: view['feature'].renamed('other').", "output-collision")


def key_conflict(where: str, column: str, dtypes: Iterable[Any]) -> Mistake:
    """Return the mistake of views that expect one key column in different dtypes."""
    problem = f"key column '{column}' is expected as {' and as '.join(sorted(map(str, dtypes)))}"
    hint = "Give the entities one dtype, or bind one to another column: view.aliased('role', keys={…})."
    return Mistake(where, problem, hint, "key-conflict")


def request_conflict(where: str, name: str, dtypes: Iterable[Any]) -> Mistake:
    """Return the mistake of on-demand views that declare one request input in different dtypes."""
    problem = f"request input '{name}' is declared as {' and as '.join(sorted(map(str, dtypes)))}"
    return Mistake(where, problem, "Declare it the same everywhere, or rename one.", "request-conflict")


def request_is_key(where: str, name: str) -> Mistake:
    """Return the mistake of a request input named like a key column."""
    problem = f"'{name}' is a request input and a key column"
    return Mistake(where, problem, "Rename the request input: they would be one column of the spine.", "request-is-key")
