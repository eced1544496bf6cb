"""The question of an explanation: plan, entity, instant, request inputs, and the logged row about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import TIMESTAMP, from_arrow, read_value
from featurestore.core.errors import RequestError, unknown_feature
from featurestore.core.temporal import MAX_INSTANT_US, MIN_INSTANT_US
from featurestore.guard.explain.words import shown, texts
from featurestore.guard.world.world import operands
from featurestore.online.answering.requests import read_fields
from featurestore.plan.model import Plan, TypedExpr
from featurestore.plan.names import AS_OF
from featurestore.serving_log import ServingLog
from featurestore.serving_log.columns import FINGERPRINT, key_column, request_column
from featurestore.serving_log.rows import matching


@dataclass(frozen=True)
class Question:
    """The question of an explanation.

    Attributes:
        plan: The plan that answers.
        keys: The key of the entity.
        as_of_us: The instant asked about.
        requests: Request inputs by name.
        logged: The row of the serving log; ``None`` if there is none.
        columns: The columns to explain: those of the answer, then their operands.
        notes: Assumptions made, for readers.
        other_inputs: Request inputs whose values differ from those of the logged row: features that depend on them
            were not served.
    """

    plan: Plan
    keys: dict[str, Any]
    as_of_us: int
    requests: dict[str, Any]
    logged: pa.Table | None = None
    columns: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    other_inputs: frozenset[str] = frozenset()

    def spine(self) -> pa.Table:
        """Return the question as one row of a spine."""
        columns = {
            column.name: pa.array([self.keys[column.name]], type=column.dtype.arrow) for column in self.plan.join_keys
        }
        columns |= {
            column.name: pa.array([self.requests[column.name]], type=column.dtype.arrow) for column in self.plan.request
        }
        return pa.table(columns | {AS_OF: pa.array([self.as_of_us], type=pa.int64()).cast(TIMESTAMP.arrow)})

    def output_of(self, column: str) -> str | None:
        """Return the name of a column in the answer; ``None`` if it is only an operand."""
        return next((output.name for output in self.plan.outputs if output.column == column), None)


def read_question(
    plan: Plan,
    past: Iterable[Plan],
    log: ServingLog,
    *,
    entity: Mapping[str, Any] | None,
    at_us: int | None,
    feature: str | None,
    request: Mapping[str, Any] | None,
    request_id: str | None,
) -> Question:
    """Complete and check a question.

    Args:
        plan: The applied plan.
        past: Plans that were applied before.
        log: The serving log.
        entity: Key columns; ``None`` for those of the logged row.
        at_us: The instant; ``None`` for that of the logged row.
        feature: Column of the answer to explain; ``None`` for all.
        request: Request inputs; ``None`` for those of the logged row. Of several logged rows, the newest row with these
            inputs is used, otherwise the newest row.
        request_id: Id of a logged request; ``None`` looks for a row about this entity and instant.

    Raises:
        RequestError: A field is wrong or missing, or no such request was logged.
    """
    keys = None
    if entity is not None:
        keys = read_fields(entity, {column.name: column.dtype for column in plan.join_keys}, "/entity", "entity field")
    if request_id is None and (keys is None or at_us is None):
        what = "entity" if keys is None else "at"
        hint = "Pass the entity and the instant, or the id of a logged request."
        raise RequestError(f"'{what}' is missing", field=f"/{what}", hint=hint, code="missing-field")
    logged = _logged(plan.name, log, keys=keys, at_us=at_us, request_id=request_id, request=request or {})
    notes: list[str] = []
    answering = plan if logged is None else _answering(plan, past, logged, notes, is_by_row=keys is None)
    row = {} if logged is None else logged.to_pylist()[0]
    if keys is None or answering is not plan:
        keys = {column.name: row[key_column(column.name)] for column in answering.join_keys}
    if at_us is None:
        assert logged is not None
        at_us = int(logged.column(AS_OF).cast(pa.int64())[0].as_py())
    columns = _columns(answering, feature)
    is_of_plan = logged is not None and row["fingerprint"] == answering.fingerprint
    requests = _requests(answering, columns, request, row, notes)
    return Question(
        plan=answering,
        keys=keys,
        as_of_us=at_us,
        requests=requests,
        logged=logged if is_of_plan else None,
        columns=columns,
        notes=notes,
        other_inputs=_other_inputs(row, requests, notes) if is_of_plan else frozenset(),
    )


def _logged(
    service: str,
    log: ServingLog,
    *,
    keys: Mapping[str, Any] | None,
    at_us: int | None,
    request_id: str | None,
    request: Mapping[str, Any],
) -> pa.Table | None:
    """Return the newest logged row of a request, or about an entity and instant; ``None`` if there is none.

    A row with the same request inputs precedes newer rows with others.
    """
    log.flush()
    since_us, until_us = (MIN_INSTANT_US, MAX_INSTANT_US) if at_us is None else (at_us, at_us + 1)
    rows = []
    for table in log.read(service, since_us=since_us, until_us=until_us):
        matches = table if keys is None else table.filter(matching(table, [keys]))
        if request_id is not None:
            matches = matches.filter(pc.equal(matches.column("request_id"), request_id))
        if matches.num_rows:
            rows.append(matches)
    if not rows and request_id is not None:
        hint = "Pass entity and instant instead. The log may be configured to keep a share of the rows, for some days."
        raise RequestError(
            f"the serving log has no row of request '{request_id}'", field="/request_id", hint=hint, code="not-logged"
        )
    if request_id is not None and keys is None and sum(table.num_rows for table in rows) > 1:
        hint = "Pass one entity."
        raise RequestError(f"request '{request_id}' asked about several entities", field="/entity", hint=hint)
    for table in reversed(rows):
        same = [place for place, row in enumerate(table.to_pylist()) if _has_inputs(row, table.schema, request)]
        if same:
            return table.slice(same[-1], 1)
    return rows[-1].slice(rows[-1].num_rows - 1) if rows else None


def _has_inputs(row: Mapping[str, Any], schema: pa.Schema, request: Mapping[str, Any]) -> bool:
    """Return whether a logged row has some request inputs."""
    for name, value in request.items():
        column = request_column(name)
        dtype = from_arrow(schema.field(column).type) if column in row else None
        try:
            if dtype is None or row[column] != read_value(dtype, value):
                return False
        except ValueError:
            return False
    return True


def _other_inputs(logged: Mapping[str, Any], requests: Mapping[str, Any], notes: list[str]) -> frozenset[str]:
    """Return the request inputs with other values in the logged row, and note those values."""
    others = {name: logged[request_column(name)] for name in requests if logged[request_column(name)] != requests[name]}
    if others:
        values = ", ".join(f"{name}={shown(value)}" for name, value in texts(others).items())
        notes.append(f"the logged request had {values}: features that depend on it are not compared")
    return frozenset(others)


def _answering(plan: Plan, past: Iterable[Plan], logged: pa.Table, notes: list[str], *, is_by_row: bool) -> Plan:
    """Return the plan that answered a logged row; the applied plan if that plan is not known."""
    fingerprint = logged.column(FINGERPRINT)[0].as_py()
    if fingerprint == plan.fingerprint:
        return plan
    answering = next((old for old in past if old.fingerprint == fingerprint), None)
    if answering is None and is_by_row:
        raise RequestError(
            f"the plan {fingerprint[:12]} that answered it is not in the registry",
            field="/request_id",
            hint="Pass entity and instant instead: they are explained with the plan applied now.",
            code="unknown-plan",
        )
    if answering is None:
        notes.append(f"the plan {fingerprint[:12]} that answered then is not in the registry; the applied plan is used")
        return plan
    notes.append(f"this is the plan that answered then; another plan is applied now ({plan.fingerprint[:12]})")
    return answering


def _requests(
    plan: Plan,
    columns: Sequence[str],
    request: Mapping[str, Any] | None,
    logged: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    passed = dict(request or {})
    missing = [column.name for column in plan.request if column.name not in passed]
    from_log = {name: logged.get(request_column(name)) for name in missing}
    inputs = set().union(*(inputs_of(plan, column) for column in columns))
    if unknown := [name for name in missing if name in inputs and request_column(name) not in logged]:
        notes.append(f"unknown request inputs are taken as null: {', '.join(unknown)}")
    return read_fields(
        {**passed, **from_log}, {column.name: column.dtype for column in plan.request}, "/request", "request input"
    )


def _columns(plan: Plan, feature: str | None) -> tuple[str, ...]:
    names = [output.name for output in plan.outputs]
    if feature is not None and feature not in names:
        raise unknown_feature(feature, names).in_request("/feature")
    chosen = [output for output in plan.outputs if feature in (None, output.name)]
    chosen_columns = [output.column for output in chosen]
    needed = set().union(*(operands(plan, output.name) for output in chosen)) if chosen else set()
    return tuple(dict.fromkeys([*chosen_columns, *sorted(needed)]))


def inputs_of(plan: Plan, column: str) -> set[str]:
    """Return the request inputs that a column depends on, directly or through other columns."""
    expression = next((feature.expression for feature in plan.on_demand if feature.column == column), None)
    inputs: set[str] = set()
    for leaf in leaves(expression) if expression is not None else ():
        if leaf.op == "request":
            inputs.add(str(leaf.param("name")))
        elif leaf.op == "feature":
            inputs |= inputs_of(plan, str(leaf.param("column")))
    return inputs


def leaves(expression: TypedExpr) -> Iterator[TypedExpr]:
    """Yield the features, request inputs and instants that an on-demand expression reads, from left to right."""
    if expression.op in ("feature", "request", "as_of"):
        yield expression
    for operand in expression.args:
        yield from leaves(operand)
