# Every target works as the first command after a clone: it needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test nightly check coverage floors bench soak clean

help:
	@echo "make demo   run the whole story on real flights"
	@echo "make test   run the tests: everything, of long lists of cases a fair sample"
	@echo "make nightly  run every test, with more examples, more rounds of crashes, the whole matrix of causes"
	@echo "make check  format, lint, types, import contracts, doctests"
	@echo "make coverage  branch coverage of what every value stands on; fails below 95 %"
	@echo "make floors  run the tests with the oldest versions of pandas, NumPy, Arrow and SQLAlchemy that are promised"
	@echo "make bench  measure; writes benchmarks/results.md"
	@echo "make soak   ten minutes of mixed load (SOAK_SECONDS=60 for less); fails on errors, skew and growing memory"

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; say which to use: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[demo,dev]"
	@touch $@

demo: .venv/installed
	$(BIN)/python -m feature_definitions.demo

# One more than there are cores: some tests wait for the servers and processes they started.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

# A test process that crashes ends the run: pytest-xdist does not come to an end with another in its place.
PYTEST := -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal --max-worker-restart=0

# The kernels are compiled once, before the processes start; the code is kept between runs.
test: .venv/installed
	$(BIN)/featurestore warm
	$(BIN)/python $(PYTEST)

nightly: .venv/installed
	$(BIN)/featurestore warm
	HYPOTHESIS_PROFILE=nightly $(BIN)/python $(PYTEST) -m ""

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet featurestore

coverage: .venv/installed
	$(BIN)/python -m tests.measure_coverage

# The other packages are those of constraints.txt; only what the floors name is older.
.venv-floors/installed: pyproject.toml constraints.txt tests/floors.txt
	$(PYTHON) -m venv .venv-floors
	grep -viE '^(numpy|pandas|pyarrow|sqlalchemy|scipy|scikit-learn|polars)==' constraints.txt > .venv-floors/constraints.txt
	cat tests/floors.txt >> .venv-floors/constraints.txt
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-floors/constraints.txt --editable ".[demo,dev]"
	@touch $@

floors: .venv-floors/installed
	.venv-floors/bin/python $(PYTEST)

bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[demo,dev,bench]"
	$(BIN)/python -m benchmarks

SOAK_SECONDS ?= 600

soak: .venv/installed
	$(BIN)/python -m benchmarks.soak $(SOAK_SECONDS)

clean:
	rm -rf .venv .venv-floors demo_output
