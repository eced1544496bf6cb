"""JSON or Arrow, plain or compressed: the same answer in every form."""

import gzip
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest

from featurestore.core.dtypes import parse_dtype
from featurestore.server.formats import ARROW_STREAM, JSON, METADATA_KEY, check_size, negotiate_format
from featurestore.server.problems import RefusedError
from tests.server.test_features import problem

ASKED = {"service": "all_of_it", "entities": [{"user": 1}, {"user": 9}], "request": {"budget": 10}}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        (b"*/*", JSON),
        (b"application/*", JSON),
        (b"application/json, " + ARROW_STREAM.encode(), JSON),
        (b"application/json;q=0.5, " + ARROW_STREAM.encode(), ARROW_STREAM),
        (b"application/json;q=0, */*", ARROW_STREAM),
        (b"text/html, */*;q=0.1", JSON),
        (ARROW_STREAM.upper().encode(), ARROW_STREAM),
    ],
)
def test_the_form_liked_best_is_given(accept, expected):
    assert negotiate_format(accept, None).media_type == expected


@pytest.mark.parametrize("accept", [b"text/html", b"*/*;q=0", b"application/json;q=0.0", b""])
def test_what_cannot_be_given_is_refused(accept):
    with pytest.raises(RefusedError):
        negotiate_format(accept, None)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (None, ""),
        (b"identity", ""),
        (b"gzip, deflate", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip, zstd;q=0.5", "gzip"),
        (b"gzip;q=0", ""),
        (b"*", "zstd"),
    ],
)
def test_the_coding_liked_best_is_used(encoding, expected):
    assert negotiate_format(None, encoding).coding == expected


def test_an_answer_in_arrow_has_the_dtypes_of_a_training_set(call, store):
    response = call("POST", "/v1/features", json=ASKED | {"describe": True}, headers={"accept": ARROW_STREAM})
    assert response.status_code == 200
    assert response.headers["content-type"] == ARROW_STREAM
    table = pa.ipc.open_stream(response.content).read_all()
    own = store.get_online_features(ASKED["service"], ASKED["entities"], ASKED["request"])
    assert table.select(own.columns).replace_schema_metadata(None).equals(own.to_arrow())
    assert table.column("status__spending__orders").to_pylist() == ["PRESENT", "NOT_FOUND"]
    (first, second) = table.column("event_time__spending").to_pylist()
    assert (first.isoformat(), second) == ("2024-05-01T02:00:00+00:00", None)
    head = json.loads(table.schema.metadata[METADATA_KEY.encode()])
    assert head["fingerprint"] == own.fingerprint
    assert head["request_id"] == response.headers["x-request-id"]
    assert head["rows"] == []
    assert head["dtypes"]["keys"] == {"user": "int64"}


def test_event_times_are_left_out_if_not_wanted(call):
    plain = ASKED | {"event_times": False}
    assert all(row["event_times"] == {} for row in call("POST", "/v1/features", json=plain).json()["rows"])
    table = pa.ipc.open_stream(
        call("POST", "/v1/features", json=plain, headers={"accept": ARROW_STREAM}).content
    ).read_all()
    assert not any(name.startswith("event_time__") for name in table.column_names)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_large_answers_are_compressed_for_those_who_can_read_that(call, coding):
    large = {"service": "plain", "entities": [{"user": 1}] * 400, "as_of": "2024-05-02T00:00:00Z"}
    plain = call("POST", "/v1/features", json=large, headers={"accept-encoding": "identity", "x-request-id": "r"})
    packed = call("POST", "/v1/features", json=large, headers={"accept-encoding": coding, "x-request-id": "r"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == coding
    assert packed.headers["vary"] == plain.headers["vary"] == "accept, accept-encoding"
    assert int(packed.headers["content-length"]) < len(plain.content) / 5
    assert packed.json() == plain.json()


def test_small_answers_are_not_worth_it(call):
    assert "content-encoding" not in call("POST", "/v1/features", json=ASKED).headers


def test_gzip_is_what_others_read():
    from featurestore.server.formats import compressed

    assert gzip.decompress(compressed(b"abc" * 1_000, "gzip")) == b"abc" * 1_000


def test_a_form_there_is_not_is_refused_before_anything_is_done(call):
    response = call("POST", "/v1/features", json=ASKED, headers={"accept": "text/csv"})
    assert response.status_code == 406
    assert problem(response)["code"] == "not-acceptable"


@pytest.mark.parametrize("path", ["/v1/features", "/get-online-features"])
@pytest.mark.parametrize("count", [20, 500])
def test_an_answer_that_is_too_large_is_refused_before_it_is_made(call, store, monkeypatch, path, count):
    """Found in a hunt: ten kilobytes of question were answered with 200 megabytes."""
    asked = (
        {"service": "all_of_it", "entities": [{"user": 1}] * count, "request": {"budget": 10}, "partial": True}
        if path == "/v1/features"
        else {"feature_service": "all_of_it", "entities": {"user": [1] * count, "budget": [10.0] * count}}
    )
    plain = call("POST", path, json=asked)
    assert plain.status_code == 200
    server = store.config.server.model_copy(update={"max_answer": len(plain.content) // 30})
    store.parts.config = store.config.model_copy(update={"server": server})
    monkeypatch.setattr("featurestore.server.formats.to_bytes", None)
    found = problem(call("POST", path, json=asked))
    assert (found["status"], found["code"], found["field"]) == (413, "answer-too-large", "/entities")


@pytest.mark.parametrize("accept", [JSON, ARROW_STREAM])
def test_an_answer_as_large_as_it_may_be_is_given(call, store, accept):
    plain = call("POST", "/v1/features", json=ASKED, headers={"accept": accept, "x-request-id": "a"})
    for less, status in ((0, 200), (1, 413)):
        server = store.config.server.model_copy(update={"max_answer": len(plain.content) - less})
        store.parts.config = store.config.model_copy(update={"server": server})
        answer = call("POST", "/v1/features", json=ASKED, headers={"accept": accept, "x-request-id": "a"})
        assert answer.status_code == status


def test_text_binary_and_lists_are_measured():
    result = SimpleNamespace(rows=[[None, "ab" * 50, b"c" * 100, [["d" * 50], ["e" * 46]]]] * 10)
    result.dtypes = tuple(map(parse_dtype, ("int64", "string", "binary", "list<list<string>>")))
    result.columns = tuple("abcd")
    check_size(result, 3_300)
    with pytest.raises(RefusedError):
        check_size(result, 2_900)
