"""Settings for all tests."""

import os

import pytest
from hypothesis import settings

from tests.servers import postgres_database, postgres_url, redis_url  # noqa: F401  # fixtures of all tests
from tests.stores import online_urls, online_urls_of  # noqa: F401

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

LEFT = pytest.StashKey[int]()
"""How many tests a run leaves to the nightly one."""

FEAST_PYTHON = os.environ.pop("FEATURESTORE_TEST_FEAST_PYTHON", "")
"""An interpreter that has Feast. The variable is taken away: it would look like an override of the configuration."""


def pytest_deselected(items):
    """Count the tests that a run leaves to ``make nightly``."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.config.stash[LEFT] = item.config.stash.get(LEFT, 0) + 1


def pytest_sessionfinish(session):
    """Let a process of pytest-xdist report its count to the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = session.config.stash.get(LEFT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over the count of a process: each of them collects, and leaves, the same tests."""
    node.config.stash[LEFT] = max(node.config.stash.get(LEFT, 0), getattr(node, "workeroutput", {}).get("left", 0))


def pytest_terminal_summary(terminalreporter, config):
    if left := config.stash.get(LEFT, 0):
        terminalreporter.write_line(f"{left} more tests, more examples and more crashes run by 'make nightly'.")
