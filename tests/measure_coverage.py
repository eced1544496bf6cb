"""Branch coverage of the floors on which every value stands: ``python -m tests.measure_coverage``.

The tests run once as they are, and must pass. Then a few run with the kernels as plain Python, because coverage cannot
see into compiled loops; of these only what they reach counts.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

LEAST = 95
FLOORS = (
    "featurestore/core/temporal.py",
    "featurestore/core/dtypes.py",
    "featurestore/plan/*",
    "featurestore/kernels/*",
)
TESTS = ("tests/unit", "tests/golden", "tests/laws", "tests/oracle", "tests/parity")
LOOPS = (
    "tests/unit/kernels",
    "tests/unit/expressions",
    "tests/unit/offline/test_narrowing.py",
    "tests/unit/online/test_retention.py",
    "tests/laws/test_aggregation_laws.py::test_asking_one_by_one_gives_what_asking_at_once_gives",
    "tests/laws/test_aggregation_laws.py::test_events_before_every_window_matter_only_by_being_there",
    "tests/oracle/test_kernels_against_naive.py::test_kernels_give_the_naive_answers_at_every_edge",
    "tests/oracle/test_kernels_against_naive.py::test_long_histories_give_the_naive_answers[1-continuous-False]",
    "tests/oracle/test_kernels_against_naive.py::test_long_histories_give_the_naive_answers[1-continuous-True]",
)
SETTINGS = """
[run]
branch = true
source = featurestore
data_file = {folder}/data
[report]
exclude_also =
    if TYPE_CHECKING:
    class .*Protocol.*:
    assert_never
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "coverage.ini"
        settings.write_text(SETTINGS.format(folder=folder))
        coverage = [sys.executable, "-m", "coverage"]
        run = [*coverage, "run", f"--rcfile={settings}", "--append", "-m", "pytest", "-q", "--no-header"]
        tested = subprocess.run([*run, *TESTS], check=False)
        subprocess.run([*run, "-p", "tests.interpreted", "--tb=no", *LOOPS], check=False)
        wanted = [f"--rcfile={settings}", f"--include={','.join(FLOORS)}", "--skip-covered", "--show-missing"]
        reported = subprocess.run([*coverage, "report", *wanted, f"--fail-under={LEAST}"], check=False)
        return tested.returncode or reported.returncode


if __name__ == "__main__":
    sys.exit(main())
