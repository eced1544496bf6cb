"""How far long work is: told in rows, step by step, never backwards, to who wants to know."""

import io

import pytest

from featurestore.storage.progress import Steps, listening, part_of
from tests.unit.offline.samples import spine, store_of


def test_shares_are_told_as_rows_and_never_backwards():
    heard = []
    told = Steps(lambda *step: heard.append(step)).step("view a", 200)
    for share in (0.25, 0.1, 0.5, 0.5, 1.5):
        told(share)
    assert heard == [("view a", done, 200) for done in (0, 50, 100, 200)]


def test_rounds_count_on():
    heard = []
    steps = Steps(lambda *step: heard.append(step))
    for number in range(2):
        steps.step("view a", 100, number=number, rounds=2)(1.0)
    assert heard == [("view a", done, 200) for done in (0, 100, 200)]


def test_a_part_is_told_as_a_part_of_the_whole():
    heard = []
    told = part_of(heard.append, 0.5, 0.75)
    told(0.0)
    told(1.0)
    assert heard == [0.5, 0.75]


def test_nobody_listens_where_there_is_no_terminal():
    for wanted in (None, False):
        with listening(wanted, opening="opening") as told:
            assert told is None


def test_bars_are_shown_where_they_are_wanted(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with listening(True, opening="opening") as told:
        told("view a", 0, 10)
        told("view a", 10, 10)
    assert "view a" in shown.getvalue()
    assert "10/10" in shown.getvalue()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_training_set_tells_every_view_and_what_is_written(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore.offline.engine._part_count", lambda *_: parts)
    heard = []
    with store_of(tmp_path) as store:
        store.training_set("model", spine(), tmp_path / "set", progress=lambda *step: heard.append(step))
    last = {step: (done, total) for step, done, total in heard}
    assert last == {"view spending": (400, 400), "rows written": (55, 55)}
    for step in last:
        told = [done for name, done, _ in heard if name == step]
        assert told == sorted(set(told))
        assert len(told) > 2


def test_a_listener_that_fails_stops_the_work_and_leaves_nothing(tmp_path):
    def refuse(step, done, total):
        if done:
            raise KeyboardInterrupt

    with store_of(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        store.training_set("model", spine(), tmp_path / "sets" / "set", progress=refuse)
    assert list((tmp_path / "sets").iterdir()) == []
