"""Where conventions are the same, distances are Evidently's: normed Wasserstein; PSI and Jensen-Shannon of categories.

Evidently wants another pandas than this library, so it lives in an environment of its own: ``EVIDENTLY_PYTHON`` names
its interpreter. Without one this is skipped.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from featurestore.guard.drift.measures import jensen_shannon, psi, wasserstein
from tests.unit.drift.samples import SHAPES, exactly

PYTHON = os.environ.get("EVIDENTLY_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="EVIDENTLY_PYTHON names no interpreter that has Evidently")

THEIRS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
given = json.load(sys.stdin)
numbers, categories = given["numbers"], given["categories"]
definition = DataDefinition(numerical_columns=list(numbers[0]), categorical_columns=list(categories[0]))
series = [
    {name: pd.Series(column, dtype="float64") for name, column in numbers[i].items()}
    | {name: pd.Series(column) for name, column in categories[i].items()}
    for i in (0, 1)
]
reference, current = (Dataset.from_pandas(pd.DataFrame(side), definition) for side in series)
def drift(column, method):
    report = Report([ValueDrift(column=column, method=method)]).run(current, reference)
    return float(report.dict()["metrics"][0]["value"])
found = {f"{name} wasserstein": drift(name, "wasserstein") for name in numbers[0]}
found |= {f"{name} {method}": drift(name, method) for name in categories[0] for method in ("psi", "jensenshannon")}
print(json.dumps(found))
"""
COUNTS = {"known": ([300, 200, 500], [250, 300, 450]), "new": ([600, 400, 0], [500, 450, 50])}


def theirs(numbers, categories):
    given = json.dumps({"numbers": numbers, "categories": categories})
    done = subprocess.run([PYTHON, "-c", THEIRS], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_distances_equal_evidently():
    random = np.random.default_rng(3)
    numbers = {name: (draw(random, 1_000), draw(random, 1_000) * 1.1) for name, draw in SHAPES.items()}
    named = {
        name: [[letter for letter, count in zip("abc", side, strict=True) for _ in range(count)] for side in sides]
        for name, sides in COUNTS.items()
    }
    found = theirs(
        [{name: sides[i].tolist() for name, sides in numbers.items()} for i in (0, 1)],
        [{name: sides[i] for name, sides in named.items()} for i in (0, 1)],
    )
    expected = {f"{name} wasserstein": wasserstein(*exactly(*sides)).value for name, sides in numbers.items()}
    for name, sides in COUNTS.items():
        pair = [np.array(side) for side in sides]
        expected |= {f"{name} psi": psi(*pair).value, f"{name} jensenshannon": jensen_shannon(*pair).value}
    assert found == pytest.approx(expected, rel=1e-6)
