"""Live audits ask about everybody who can be asked about, and count those who cannot."""

import sqlite3

import pytest

from featurestore.core.errors import StateError
from featurestore.core.temporal import to_datetime
from featurestore.online.stores.store import state_prefix
from tests.strategies import START_US
from tests.unit.skew.test_batches import HOUR
from tests.unit.skew.test_batches import store as store  # noqa: PLC0414  # a fixture


def damage_a_state(store, path):
    """Turn a byte of one entity's state over."""
    (use,) = store.plan("model").uses
    with sqlite3.connect(path) as connection:
        stored = dict(connection.execute("SELECT key, value FROM online_state"))
        key = next(key for key in sorted(stored) if key.startswith(state_prefix(use.view, 0)))
        broken = bytearray(stored[key])
        broken[len(broken) // 2] ^= 0xFF
        connection.execute("UPDATE online_state SET value = ? WHERE key = ?", (bytes(broken), key))
    connection.close()


def test_one_damaged_state_is_counted_and_all_others_are_compared(store, tmp_path):
    store.materialize(until=to_datetime(START_US + 99 * HOUR))
    assert store.audit_live("model", 30).compared == 30
    damage_a_state(store, tmp_path / "store" / "online.db")
    report = store.audit_live("model", 30)
    assert (report.verdict, report.served, report.compared, report.different) == ("cannot tell", 30, 29, 0)
    (skipped,) = report.skipped
    assert skipped.rows == 1
    assert skipped.reason.startswith("their online state cannot be read: ")
    assert {feature.skipped for feature in report.features} == {1}


def test_a_view_without_state_is_an_error_and_nobodys_damage(store):
    with pytest.raises(StateError):
        store.audit_live("model", 30)
