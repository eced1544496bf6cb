"""On-demand features, and the columns of an answer: the last step of training sets and of online lookups.

The module must not know where view features or request inputs come from.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Bytes
from featurestore.core.statuses import NULL, PRESENT
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.kernels.words import validity
from featurestore.plan.model import Plan


def finish(
    plan: Plan,
    columns: Mapping[str, pa.Array],
    statuses: Mapping[str, Bytes],
    requests: Mapping[str, pa.Array],
    as_of: pa.Array,
) -> tuple[dict[str, pa.Array], dict[str, Bytes]]:
    """Compute a service's on-demand features and pick the columns of its answer.

    Args:
        plan: The service.
        columns: Features of its views, named ``alias__feature``.
        statuses: Their ``Status`` codes.
        requests: Request inputs by name, in their dtypes.
        as_of: The instants asked about, one per row.

    Returns:
        Values and statuses by output name, in the order of ``plan.outputs``. An on-demand feature is ``PRESENT`` or
        ``NULL``; it has no status that says what its operands lacked.
    """
    all_columns = dict(columns)
    all_statuses = dict(statuses)
    for feature in plan.on_demand:
        environment = Environment(columns={}, length=len(as_of), requests=requests, features=all_columns, as_of=as_of)
        array = evaluate(feature.expression, environment)
        all_columns[feature.column] = array
        all_statuses[feature.column] = np.where(validity(array), PRESENT, NULL).astype(np.uint8)
    values = {output.name: all_columns[output.column] for output in plan.outputs}
    return values, {output.name: all_statuses[output.column] for output in plan.outputs}
