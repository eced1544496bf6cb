"""A log that pandas keeps is equal exactly if what was served is: of every dtype, with and without nulls."""

import io

import pandas as pd
import pyarrow as pa
from hypothesis import assume, event, given
from hypothesis import strategies as st

from featurestore.core.errors import ValueOverflowError
from featurestore.guard.audit.foreign import ForeignLog, ForeignMapping
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.run import audit_tables
from featurestore.offline.build import compute_features
from featurestore.sources import ReadSettings
from tests.budget import examples
from tests.roads import TableRows
from tests.strategies import START_US, scenarios
from tests.unit.skew.test_audit_equality import FAR_US, ONE_PART, bits, plan_of, spine_of

EXACT = 2**53
"""pandas keeps whole numbers beside nulls as floats, and larger ones than these not exactly."""


def is_exact(column):
    if not pa.types.is_integer(column.type) or column.null_count == 0:
        return True
    numbers = column.drop_null()
    return all(abs(number) <= EXACT for number in numbers.to_pylist())


def through_parquet(frame):
    file = io.BytesIO()
    frame.to_parquet(file)
    return pd.read_parquet(file)


@given(st.data(), scenarios(), st.sampled_from((lambda frame: frame, through_parquet)))
@examples(60)
def test_a_frame_of_another_system_differs_exactly_where_its_values_do(data, scenario, written):
    plan = plan_of(scenario)
    spine = spine_of(scenario, plan)
    rows = {use.view.name: TableRows(scenario.table()) for use in plan.uses}

    def reference(asked, part):
        return compute_features(asked, part, rows, resources=ONE_PART), dict.fromkeys(rows, FAR_US)

    try:
        right = reference(plan, spine)[0]
    except ValueOverflowError:
        return
    served, changed = {}, 0
    for output in plan.outputs:
        column = right.values[output.name].to_pylist()
        wrong = list(column)
        for row in data.draw(st.lists(st.integers(0, len(column) - 1), max_size=1)):
            wrong[row] = data.draw(st.sampled_from((*column, None)))
        changed += sum(bits(left) != bits(right) for left, right in zip(column, wrong, strict=True))
        served[output.name] = pa.array(wrong, type=output.dtype.arrow)
    assume(all(map(is_exact, served.values())))
    event("something changed" if changed else "nothing changed")
    frame = written(pa.table({name: spine.column(name) for name in spine.column_names} | served).to_pandas())
    mapping = ForeignMapping(
        as_of="as_of",
        keys={key.name: key.name for key in plan.join_keys},
        features={name: name for name in served},
    )
    log = ForeignLog.open(plan, frame, mapping, ReadSettings())
    report = audit_tables(
        "model",
        log.tables(since_us=None, until_us=None),
        plans={log.plan.fingerprint: log.plan},
        reference=reference,
        since_us=START_US,
        until_us=FAR_US,
        ran_at_us=FAR_US,
    )
    assert report.compared == spine.num_rows
    assert report.different == changed, report.notes
    assert (Policy().judge(report).verdict == "pass") == (changed == 0)
