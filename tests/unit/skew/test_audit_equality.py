"""An audit reports equality exactly if values and statuses are equal, whatever is defined and whatever happened."""

import struct

import numpy as np
import pyarrow as pa
from hypothesis import event, given
from hypothesis import strategies as st

from featurestore import FeatureService
from featurestore.core.errors import ValueOverflowError
from featurestore.core.statuses import Status
from featurestore.definitions.collection import collect
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.run import Options, audit_tables
from featurestore.offline.build import compute_features
from featurestore.plan.compiler import compile_definitions
from featurestore.serving_log import log_schema
from tests.budget import examples
from tests.roads import ONE_PART, TableRows, query_arrays
from tests.strategies import START_US, scenarios

FAR_US = START_US + 10**15


def plan_of(scenario):
    service = FeatureService("model", features=[scenario.view])
    return compile_definitions(collect(service), {scenario.view.source.name: scenario.columns}).services["model"]


def spine_of(scenario, plan):
    keys, as_of = query_arrays(scenario.plan, scenario.queries)
    columns = dict(zip(plan.uses[0].keys, keys, strict=True))
    return pa.table({"as_of": pa.array(as_of).cast(pa.timestamp("us", tz="UTC")), **columns})


def log_of(plan, spine, values, statuses):
    """Lay answers out as a serving log."""
    rows = spine.num_rows
    columns = {
        "request_id": [f"r{row}" for row in range(rows)],
        "row": [0] * rows,
        "as_of": spine.column("as_of"),
        "logged_at": spine.column("as_of"),
        "service": ["model"] * rows,
        "fingerprint": [plan.fingerprint] * rows,
        **{f"key__{column.name}": spine.column(column.name) for column in plan.join_keys},
        **{f"value__{name}": column for name, column in values.items()},
        **{f"status__{name}": codes for name, codes in statuses.items()},
        **{f"watermark__{use.alias}": pa.array([FAR_US] * rows).cast(pa.timestamp("us", "UTC")) for use in plan.uses},
    }
    schema = log_schema(plan)
    arrays = []
    for field in schema:
        column = columns.get(field.name, [None] * rows)
        is_arrow = isinstance(column, pa.Array | pa.ChunkedArray)
        arrays.append(column.cast(field.type) if is_arrow else pa.array(column, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def bits(value):
    return struct.pack("<d", value) if isinstance(value, float) else value


@given(st.data(), scenarios())
@examples(120)
def test_an_audit_finds_exactly_the_values_that_were_changed(data, scenario):
    plan = plan_of(scenario)
    spine = spine_of(scenario, plan)
    rows = {use.view.name: TableRows(scenario.table()) for use in plan.uses}

    def reference(asked, part):
        return compute_features(asked, part, rows, resources=ONE_PART), dict.fromkeys(rows, FAR_US)

    try:
        right = reference(plan, spine)[0]
    except ValueOverflowError:
        return
    values, statuses, changed = {}, {}, 0
    for output in plan.outputs:
        column, codes = right.values[output.name].to_pylist(), right.statuses[output.name].tolist()
        wrong, wrong_codes = list(column), list(codes)
        for row in data.draw(st.lists(st.integers(0, len(column) - 1), max_size=2)):
            other = data.draw(st.integers(0, len(column) - 1))
            wrong[row] = data.draw(st.sampled_from((column[other], column[row], None)))
            wrong_codes[row] = data.draw(st.sampled_from((codes[row], codes[other], int(Status.NULL))))
        changed += sum(
            (bits(a), s) != (bits(b), t) for a, s, b, t in zip(column, codes, wrong, wrong_codes, strict=True)
        )
        values[output.name] = pa.array(wrong, type=output.dtype.arrow)
        statuses[output.name] = np.array(wrong_codes, dtype=np.uint8)
    event("something changed" if changed else "nothing changed")
    report = audit_tables(
        "model",
        [log_of(plan, spine, values, statuses).slice(at, 3) for at in range(0, spine.num_rows, 3)],
        plans={plan.fingerprint: plan},
        reference=reference,
        since_us=START_US,
        until_us=FAR_US,
        ran_at_us=FAR_US,
        options=Options(batch_values=data.draw(st.sampled_from((1, 10, 1_000)))),
    )
    assert report.different == changed
    assert report.served == report.compared == spine.num_rows
    assert (Policy().judge(report).verdict == "pass") == (changed == 0)
    for feature in report.features:
        assert feature.compared == feature.served == spine.num_rows
        assert sum(feature.status_pairs.values()) == feature.compared
    assert sum(bucket.rows for bucket in report.over_time) == spine.num_rows
