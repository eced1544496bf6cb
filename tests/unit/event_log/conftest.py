"""What the tests of the event log share."""

import pytest

from featurestore.event_log import log as log_module


@pytest.fixture(autouse=True)
def _clock_of_postgres(monkeypatch):
    """Give the clock of PostgreSQL back that appends of these tests set."""
    monkeypatch.setattr(log_module, "_PRESENT_US", log_module._PRESENT_US)
