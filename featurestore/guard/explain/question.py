"""What is to be explained: a plan, an entity, an instant, request inputs, and the logged row that is about them."""

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
from featurestore.serving_log.columns import FINGERPRINT, REQUEST_ID, key_column, request_column
from featurestore.serving_log.rows import matching


@dataclass(frozen=True)
class Question:
    """What is to be explained.

    Attributes:
        plan: The plan that answers.
        keys: The entity.
        as_of_us: The instant asked about.
        requests: Request inputs by name.
        logged: The row of the serving log, one row; ``None`` if there is none.
        columns: The columns to explain, those of the answer first, then what they are computed of.
        notes: What had to be assumed.
        other_inputs: Request inputs that are explained with other values than the logged row was asked with: what
            depends on them was not served then.
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
        """Return the name under which a column is answered; ``None`` if it is only computed with."""
        return next((output.name for output in self.plan.outputs if output.column == column), None)


def asked(
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
    """Find out what is to be explained.

    Args:
        plan: The plan applied.
        past: Plans that were applied before.
        log: What was served.
        entity: Key columns; ``None`` takes those of the logged row.
        at_us: The instant; ``None`` takes that of the logged row.
        feature: Column of the answer to explain; ``None`` means all.
        request: Request inputs; ``None`` takes those of the logged row. Of several rows that are logged the newest
            that was asked with these counts, or else the newest.
        request_id: The request to find in the log; ``None`` finds one about this entity and instant.

    Raises:
        RequestError: A field is wrong or missing, or no such request was logged.
    """
    keys = None
    if entity is not None:
        keys = read_fields(entity, {column.name: column.dtype for column in plan.join_keys}, "/entity", "entity field")
    if request_id is None and (keys is None or at_us is None):
        what = "entity" if keys is None else "at"
        hint = "Give the entity and the instant, or the id of a request that was logged."
        raise RequestError(f"'{what}' is missing", field=f"/{what}", hint=hint, code="missing-field")
    logged = _logged(plan.name, log, keys=keys, at_us=at_us, request_id=request_id, request=request or {})
    notes: list[str] = []
    answering = plan if logged is None else _answering(plan, past, logged, notes, is_by_row=keys is None)
    found = {} if logged is None else logged.to_pylist()[0]
    if keys is None or answering is not plan:
        keys = {column.name: found[key_column(column.name)] for column in answering.join_keys}
    if at_us is None:
        assert logged is not None
        at_us = int(logged.column(AS_OF).cast(pa.int64())[0].as_py())
    columns = _columns(answering, feature)
    is_of_plan = logged is not None and found["fingerprint"] == answering.fingerprint
    requests = _requests(answering, columns, request, found, notes)
    return Question(
        plan=answering,
        keys=keys,
        as_of_us=at_us,
        requests=requests,
        logged=logged if is_of_plan else None,
        columns=columns,
        notes=notes,
        other_inputs=_other_inputs(found, requests, notes) if is_of_plan else frozenset(),
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
    """Return the newest row that was served of a request, or about an entity and instant.

    One that was asked with the request inputs given comes before newer ones that were not.
    """
    log.flush()
    since_us, until_us = (MIN_INSTANT_US, MAX_INSTANT_US) if at_us is None else (at_us, at_us + 1)
    rows = []
    for table in log.read(service, since_us=since_us, until_us=until_us):
        found = table if keys is None else table.filter(matching(table, [keys]))
        if request_id is not None:
            found = found.filter(pc.equal(found.column(REQUEST_ID), request_id))
        if found.num_rows:
            rows.append(found)
    if not rows and request_id is not None:
        hint = "Give entity and instant instead; a log may keep a share of what is served, and for some days."
        raise RequestError(
            f"no row of request '{request_id}' is in the serving log", field="/request_id", hint=hint, code="not-logged"
        )
    if request_id is not None and keys is None and sum(table.num_rows for table in rows) > 1:
        hint = "Say which of them: give the entity."
        raise RequestError(f"request '{request_id}' asked about several entities", field="/entity", hint=hint)
    for table in reversed(rows):
        same = [place for place, row in enumerate(table.to_pylist()) if _is_asked_with(row, table.schema, request)]
        if same:
            return table.slice(same[-1], 1)
    return rows[-1].slice(rows[-1].num_rows - 1) if rows else None


def _is_asked_with(row: Mapping[str, Any], schema: pa.Schema, request: Mapping[str, Any]) -> bool:
    """Tell whether a logged row was asked with some request inputs."""
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
    """Return the request inputs that a logged row was asked with otherwise, and note what they were."""
    others = {name: logged[request_column(name)] for name in requests if logged[request_column(name)] != requests[name]}
    if others:
        said = ", ".join(f"{name}={shown(value)}" for name, value in texts(others).items())
        notes.append(f"what was served then was asked with {said}: what depends on that is not compared")
    return frozenset(others)


def _answering(plan: Plan, past: Iterable[Plan], logged: pa.Table, notes: list[str], *, is_by_row: bool) -> Plan:
    """Return the plan that answered a logged row; the applied one if that is not known."""
    fingerprint = logged.column(FINGERPRINT)[0].as_py()
    if fingerprint == plan.fingerprint:
        return plan
    found = next((one for one in past if one.fingerprint == fingerprint), None)
    if found is None and is_by_row:
        raise RequestError(
            f"the plan {fingerprint[:12]} that answered it is not in the registry",
            field="/request_id",
            hint="Give entity and instant instead: they are explained by the plan applied now.",
            code="unknown-plan",
        )
    if found is None:
        notes.append(f"the plan {fingerprint[:12]} that answered then is not in the registry; the applied one is shown")
        return plan
    notes.append(f"this is the plan that answered then; another one is applied now ({plan.fingerprint[:12]})")
    return found


def _requests(
    plan: Plan,
    columns: Sequence[str],
    request: Mapping[str, Any] | None,
    logged: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    given = dict(request or {})
    missing = [column.name for column in plan.request if column.name not in given]
    found = {name: logged.get(request_column(name)) for name in missing}
    read = set().union(*(inputs_of(plan, column) for column in columns))
    if unknown := [name for name in missing if name in read and request_column(name) not in logged]:
        notes.append(f"request inputs that are not known count as null: {', '.join(unknown)}")
    return read_fields(
        {**given, **found}, {column.name: column.dtype for column in plan.request}, "/request", "request input"
    )


def _columns(plan: Plan, feature: str | None) -> tuple[str, ...]:
    names = [output.name for output in plan.outputs]
    if feature is not None and feature not in names:
        raise unknown_feature(feature, names).in_request("/feature")
    chosen = [output for output in plan.outputs if feature in (None, output.name)]
    own = [output.column for output in chosen]
    needed = set().union(*(operands(plan, output.name) for output in chosen)) if chosen else set()
    return tuple(dict.fromkeys([*own, *sorted(needed)]))


def inputs_of(plan: Plan, column: str) -> set[str]:
    """Return the request inputs that a column is computed of, in any number of steps."""
    expression = next((feature.expression for feature in plan.on_demand if feature.column == column), None)
    found: set[str] = set()
    for leaf in leaves(expression) if expression is not None else ():
        if leaf.op == "request":
            found.add(str(leaf.param("name")))
        elif leaf.op == "feature":
            found |= inputs_of(plan, str(leaf.param("column")))
    return found


def leaves(expression: TypedExpr) -> Iterator[TypedExpr]:
    """Yield what an on-demand expression reads, as it stands from left to right."""
    if expression.op in ("feature", "request", "as_of"):
        yield expression
    for operand in expression.args:
        yield from leaves(operand)
