"""Lines of logs: nobody waits for their reader, alike ones are bounded, and callers cannot write into them."""

import io
import json
import logging
import os
import threading
import time

import pytest

from featurestore.core.errors import StorageError
from featurestore.server.logs import JsonLines, LinesHandler, LineWriter, RequestLog
from featurestore.server.problems import problem_of
from tests.server.conftest import Caller, create_app


def lines(target: io.BytesIO) -> list[dict]:
    return [json.loads(line) for line in target.getvalue().splitlines()]


class Stalled(io.BytesIO):
    """A stream that takes nothing until it may."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()

    def write(self, data):
        self.may_go_on.wait(20)
        return super().write(data)


def test_lines_for_a_reader_who_stalls_are_dropped_and_counted():
    target = Stalled()
    writer = LineWriter(lambda: target, max_bytes=1_000)
    began = time.monotonic()
    for number in range(500):
        writer.put(b'{"number": %d}\n' % number)
    writer.flush(0.05)
    assert time.monotonic() - began < 5
    target.may_go_on.set()
    writer.flush(10)
    writer.put(b'{"number": 500}\n')
    writer.flush(10)
    *written, dropped, last = lines(target)
    assert [line["number"] for line in written] == list(range(len(written)))
    assert dropped["message"] == f"{500 - len(written)} lines were dropped: the stream was not read in time"
    assert last == {"number": 500}


@pytest.mark.parametrize("size", [1, 3, None])
def test_a_line_is_written_whole_however_much_is_taken_at_once(size):
    class Slow(io.BytesIO):
        calls = 0

        def write(self, data):
            self.calls += 1
            return None if self.calls % 5 == 2 else super().write(data[:size])

    target = Slow()
    writer = LineWriter(lambda: target)
    writer.put(b"one\n")
    writer.put(b"another\n")
    writer.flush(10)
    assert target.getvalue() == b"one\nanother\n"


def test_a_reader_who_is_gone_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with io.FileIO(writing, "wb") as target:
        writer = LineWriter(lambda: target)
        writer.put(b"a\n")
        writer.put(b"b\n")
        writer.flush(10)


@pytest.fixture
def logged():
    """A logger, what it wrote, and its handler."""
    target = io.BytesIO()
    handler = LinesHandler(LineWriter(lambda: target), max_repeats=3, seconds=0.5)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("featurestore.test")
    logger.addHandler(handler)
    yield logger, target, handler
    handler.flush()


def test_of_alike_records_only_some_are_written_and_the_others_counted(logged):
    logger, target, handler = logged
    for number in range(100):
        logger.error("it failed: %s", f"reason {number}", extra={"code": "storage"})
    logger.error("it failed: %s", "otherwise", extra={"code": "registry"})
    logger.error("it stopped")
    until = time.monotonic() + 20
    while len(lines(target)) < 6 and time.monotonic() < until:
        time.sleep(0.05)
    found = [line["message"] for line in lines(target)]
    assert found[:5] == [*(f"it failed: reason {n}" for n in range(3)), "it failed: otherwise", "it stopped"]
    assert found[5:] == ["it failed: reason 99 (97 like this were not logged)"]
    logger.error("it failed: %s", "again", extra={"code": "storage"})
    handler.flush()
    assert lines(target)[-1]["message"] == "it failed: again"


def test_failures_of_another_kind_are_not_hidden_by_a_storm(logged):
    logger, target, handler = logged
    for error in [*[ValueError("a")] * 10, KeyError("b")]:
        logger.error("a request failed", exc_info=error)
    handler.flush()
    assert [line["exception"].strip() for line in lines(target) if "like this" not in line["message"]] == [
        *["ValueError: a"] * 3,
        "KeyError: 'b'",
    ]


def test_an_outage_is_one_line_each(caplog):
    for _ in range(3):
        problem_of(StorageError("connection refused", where="online store", code="store-down"))
    assert [record.exc_info for record in caplog.records] == [None] * 3
    assert "connection refused" in caplog.text


EVIL = "a\x1b]0;t\x07\x1b[2J\x9b31m\u202eb\n\r\x7f\u2028{}"


def test_no_line_controls_the_terminal_it_is_read_on(logged, store):
    logger, target, handler = logged
    logger.error("no column '%s'", EVIL)
    handler.flush()
    requests = io.BytesIO()
    app = create_app(store)
    app.telemetry._log = RequestLog(lambda: store.clock, with_entity_keys=True, writer=LineWriter(lambda: requests))
    app.telemetry._log._entities([{"user": EVIL}])
    Caller(app).ask(entities=[{"user": 1}])
    app.telemetry._log.close()
    text = target.getvalue().decode() + requests.getvalue().decode()
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert lines(target)[0]["message"] == f"no column '{EVIL}'"
