"""What the tests of the event log share."""

import pytest

from featurestore.sources.event_log import database as database_module

NOW_US = 1_700_000_000_000_000


@pytest.fixture(autouse=True)
def _clock_of_postgres(monkeypatch):
    """Let PostgreSQL's clock stand where these tests' does; appends at another instant set it to that one."""
    monkeypatch.setattr(database_module, "PRESENT_US", f"{NOW_US}::bigint")
