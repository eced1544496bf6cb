"""What goes over the wire comes back as it was: every dtype, to the bit."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.client.messages import read_features, read_pushed, write_events, write_question
from featurestore.core.answers import (
    OnlineFeatures,
    PushResult,
    RejectedRow,
    ViewError,
    ViewState,
)
from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    TIMESTAMP,
    list_of,
)
from featurestore.core.errors import RequestError
from featurestore.core.statuses import ERROR_CODE, Status
from featurestore.core.temporal import MAX_INSTANT_US, MIN_INSTANT_US
from featurestore.server.events import message_of
from featurestore.server.messages import read_question, reply, to_bytes
from tests.assertions import bits
from tests.strategies import DTYPES, values

ALL = {**DTYPES, "numbers": list_of(FLOAT64), "instants": list_of(TIMESTAMP), "nested": list_of(list_of(INT64))}
INSTANTS = st.integers(MIN_INSTANT_US, MAX_INSTANT_US)


def cells(name):
    """Return values as the online road gives them: lists are lists, all else as the strategy of the dtype has it."""
    match name:
        case "numbers":
            found = st.lists(cells("number"), max_size=3)
        case "instants":
            found = st.lists(cells("instant"), max_size=3)
        case "nested":
            found = st.lists(st.none() | st.lists(cells("whole"), max_size=3), max_size=3)
        case "tags" | "counts":
            found = values(name, extreme=True).map(list)
        case "instant":
            found = st.datetimes(timezones=st.just(UTC))
        case "day":
            found = st.dates()
        case _:
            found = values(name, extreme=True)
    return st.none() | found


@st.composite
def answers(draw):
    names = draw(st.lists(st.sampled_from(sorted(ALL)), max_size=6))
    keys = draw(st.lists(st.sampled_from(sorted(DTYPES)), max_size=3, unique=True))
    inputs = draw(st.lists(st.sampled_from(sorted(ALL)), max_size=3, unique=True))
    count = draw(st.integers(0, 3))
    views = draw(st.lists(st.sampled_from(("spend", "ünï", "")), unique=True, max_size=2))
    return OnlineFeatures(
        service=draw(st.text()),
        fingerprint="f" * 64,
        request_id="r1",
        as_of_us=draw(INSTANTS),
        columns=tuple(f"{place}_{name}" for place, name in enumerate(names)),
        dtypes=tuple(ALL[name] for name in names),
        rows=[[draw(cells(name)) for name in names] for _ in range(count)],
        codes=bytes(draw(st.sampled_from([*Status, ERROR_CODE])) for _ in range(count) for _ in names),
        event_times={view: [draw(st.none() | INSTANTS) for _ in range(count)] for view in views},
        views={view: ViewState(draw(INSTANTS), draw(INSTANTS), draw(st.booleans()), draw(INSTANTS)) for view in views},
        entities=[{name: draw(cells(name)) for name in keys} for _ in range(count)],
        requests=[{name: draw(cells(name)) for name in inputs} for _ in range(count)],
        keys={name: ALL[name] for name in keys},
        inputs={name: ALL[name] for name in inputs},
    )


@given(answers())
def test_an_answer_comes_over_the_wire_to_the_bit(answer):
    """Also entities and request inputs, which the client reads from its own question by the server's dtypes."""
    question = write_question(answer.service, answer.entities, answer.requests, None, {})
    assert read_question(question).describe
    found = read_features(to_bytes(reply(answer, describe=True)), question)
    assert found == answer
    for reference, current in zip(answer.rows, found.rows, strict=True):
        assert bits(current) == bits(reference)
    for reference, current in zip(answer.entities + answer.requests, found.entities + found.requests, strict=True):
        assert bits(list(current.values())) == bits(list(reference.values()))
    assert found.to_arrow() == answer.to_arrow()


def test_views_that_could_not_answer_are_told():
    answer = OnlineFeatures(
        *("churn", "f", "r", 0, ("a",), (INT64,), [[None]], bytes([ERROR_CODE]), {"spend": [None]}),
        *({}, [{}], [{}], {}, {}),
        errors={"spend": ViewError("not-materialized", "nothing is there. Materialize.")},
    )
    written = msgspec.json.decode(to_bytes(reply(answer, describe=True)))
    written["errors"] = {"spend": {"code": "not-materialized", "detail": "nothing is there. Materialize."}}
    assert read_features(msgspec.json.encode(written), write_question("churn", [{}], None, None, {})) == answer


def test_a_question_says_only_what_the_caller_said():
    written = write_question("churn", [{"user": 1}], None, None, {"expected_fingerprint": None, "partial": False})
    assert msgspec.json.decode(written) == {"service": "churn", "entities": [{"user": 1}], "describe": True}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2024-01-01T00:00:00+02:00"),
        (pd.Timestamp("2024-01-01T00:00:00.000001Z"), "2024-01-01T00:00:00.000001+00:00"),
        (date(2024, 2, 29), "2024-02-29"),
        (Decimal("-0.10"), "-0.10"),
        (b"\x00\xff", "AP8="),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (pd.NA, None),
        (float("nan"), None),
        (2**63 - 1, 2**63 - 1),
        ((1, 2), [1, 2]),
        (np.str_("ü"), "ü"),
        (MappingProxyType({"a": range(2)}), {"a": [0, 1]}),
    ],
)
def test_what_python_code_holds_is_written(value, written):
    assert msgspec.json.decode(write_events([{"value": value}])) == {"events": [{"value": written}]}


@pytest.mark.parametrize(
    ("entities", "field"),
    [
        ([{"user": 1}, {"user": 2j}], "/entities/1/user"),
        ([{"a/b": "\ud800"}], "/entities/0/a~1b"),
        ([{"user": 1j}], "/entities/0/user"),
        ([{"user": [object()]}], "/entities/0/user/0"),
    ],
)
def test_what_cannot_be_written_is_the_callers_mistake_with_its_place(entities, field):
    with pytest.raises(RequestError, match="cannot be written as JSON") as raised:
        write_question("churn", entities, None, None, {})
    assert raised.value.field == field


def test_a_push_tells_what_was_rejected():
    """What a newer server says besides is left."""
    pushed = PushResult("orders", 1, 2, 9, 1_000_001, is_followed=False, rejected=(RejectedRow(3, "at", "naive"),))
    body = msgspec.json.encode(msgspec.structs.asdict(message_of(pushed)) | {"new": 1})
    assert read_pushed("orders", body) == pushed
