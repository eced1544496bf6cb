"""What is told of requests: numbers, lines, spans; and nothing that is secret."""

import asyncio
import io
import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from featurestore.config import ServerConfig
from featurestore.core.errors import StorageError
from featurestore.registry import AuditRecord, JobRecord
from featurestore.server.app import create_app
from featurestore.server.calls import REQUEST_ID
from featurestore.server.logs import JsonLines, LineWriter, RequestLog
from tests.server.conftest import Caller


def samples(call) -> dict:
    """Return the samples of /metrics by name and labels."""
    page = call("GET", "/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_service(call):
    for _ in range(3):
        call.ask(entities=[{"user": 1}, {"user": 2}])
    call.ask("nowhere")
    call("GET", "/v1/services")
    call("GET", "/nowhere")
    found = samples(call)
    assert found["featurestore_requests_total", "/v1/features", "200"] == 3
    assert found["featurestore_requests_total", "/v1/features", "404"] == 1
    assert found["featurestore_requests_total", "/v1/services", "200"] == 1
    assert found["featurestore_requests_total", "404", "other"] == 1
    assert found["featurestore_request_seconds_count", "/v1/features", "plain"] == 3
    assert found["featurestore_entities_total", "plain"] == 6
    assert found["featurestore_store_keys_total", "plain"] == 6
    assert found["featurestore_store_read_seconds_count", "plain"] == 3
    assert found["featurestore_compute_seconds_sum", "plain"] > 0


def test_views_say_how_stale_they_are(call, store):
    store.clock.instant_us += 90_000_000
    found = samples(call)
    assert found["featurestore_view_staleness_seconds", "spending"] == 90
    assert found["featurestore_store_up",] == 1


def test_the_serving_log_says_what_waits_and_what_is_lost(call, store):
    store.parts.serving_log._interval_seconds = 0
    store.parts.serving_log._most_waiting_rows = 5
    call.ask(entities=[{"user": 1}] * 4)
    call.ask(entities=[{"user": 1}] * 3)
    found = samples(call)
    assert found["featurestore_serving_log_waiting_rows",] == 4
    assert found["featurestore_serving_log_lost_rows_total",] == 3
    assert samples(call)["featurestore_serving_log_lost_rows_total",] == 3


def test_failures_of_the_serving_log_are_counted(call, store):
    store.parts.serving_log._interval_seconds = 0
    folder = store.config.data / "serving_log"
    folder.mkdir(parents=True)
    (folder / "segments").write_text("in the way")
    call.ask(entities=[{"user": 1}])
    for _ in range(2):
        with pytest.raises(StorageError):
            store.parts.serving_log.flush()
    count, problem = store.log_failures()
    assert (count, "segments" in problem) == (2, True)
    assert samples(call)["featurestore_serving_log_failures_total",] == 2
    (folder / "segments").unlink()
    store.parts.serving_log.flush()
    assert store.log_failures() == (2, "")
    assert samples(call)["featurestore_serving_log_failures_total",] == 2


def test_metrics_tell_what_the_last_audit_of_a_service_found(call, store):
    assert "featurestore_audit_ran_at_seconds{" not in call("GET", "/metrics").text
    call.ask()
    store.audit("plain", since="1h")
    page = call("GET", "/metrics").text
    assert 'featurestore_audit_verdict{service="plain",verdict="pass"} 1.0' in page
    assert 'featurestore_audit_verdict{service="plain",verdict="fail"} 0.0' in page
    assert 'featurestore_audit_mismatch_share{feature="spending__total",service="plain"} 0.0' in page
    assert 'featurestore_audit_ran_at_seconds{service="plain"} 1.714608e+09' in page


def test_metrics_tell_of_audits_of_the_log_alone(call, store):
    """A live audit, or one of another system's log, hid what an audit of the log had found."""
    call.ask()
    store.audit("plain", since="1h")
    store.registry.add_audit(AuditRecord("plain", 0, 1, 2, "fail", "{}", kind="foreign"))
    store.audit_live("plain", 3)
    assert samples(call)["featurestore_audit_verdict", "pass", "plain"] == 1
    assert store.audits("plain", limit=1)[0].kind == "live"


def test_metrics_tell_how_far_distributions_moved(call, store):
    call.ask()
    store.drift("plain", reference=("1h", None))
    page = call("GET", "/metrics").text
    assert 'featurestore_drift_verdict{service="plain",verdict="cannot tell"} 1.0' in page
    assert 'featurestore_drift_ran_at_seconds{service="plain"} 1.714608e+09' in page
    assert 'featurestore_drift_distance{feature="spending__total",measure="null_share",service="plain"}' in page


def test_metrics_tell_what_became_of_jobs_that_are_still_to_be_done(call, store):
    for name, outcome in (("a", "done"), ("b", "failed"), ("b", "missed"), ("c", "done"), ("c", "removed")):
        store.registry.add_job(JobRecord(name, 5_000_000, 7_500_000, outcome, ""))
    found = {key: value for key, value in samples(call).items() if key[0].startswith("featurestore_job")}
    outcomes = {key[1:]: value for key, value in found.items() if key[0] == "featurestore_job_last_outcome"}
    assert outcomes == {("a", "done"): 1, ("a", "failed"): 0, ("b", "done"): 0, ("b", "failed"): 1}
    assert found["featurestore_job_last_run_seconds", "b"] == 5
    assert found["featurestore_job_last_duration_seconds", "a"] == 2.5


def test_metrics_can_be_turned_off(store):
    store.parts.config = store.config.model_copy(update={"server": ServerConfig(auth="none", metrics=False)})
    assert Caller(create_app(store))("GET", "/metrics").json()["code"] == "no-metrics"


def lines_of(store, work, **options) -> list[dict]:
    """Return the lines that a log of requests has after some work."""
    target = io.BytesIO()
    app = create_app(store)
    log = app.telemetry._log = RequestLog(lambda: store.clock, writer=LineWriter(lambda: target), **options)
    work(Caller(app))
    log.close()
    return [json.loads(line) for line in target.getvalue().splitlines()]


def test_every_request_is_a_line_that_names_it(store):
    def work(call):
        call(
            "POST", "/v1/features", json={"service": "plain", "entities": [{"user": 1}]}, headers={"x-request-id": "a"}
        )
        call.ask("nowhere")

    first, second = lines_of(store, work)
    assert (first["request_id"], first["route"], first["status"]) == ("a", "/v1/features", 200)
    assert (first["service"], first["entity_count"], first["at"]) == ("plain", 1, "2024-05-02T00:00:00Z")
    assert first["ms"] > 0
    assert (second["status"], second["code"]) == (404, "unknown-service")


def test_questions_of_feasts_clients_are_told_of_like_others(call, store):
    """Found in a review: neither lines nor metrics said which service it was."""
    asked = {"features": ["spending:total"], "entities": {"user": [1, 2]}}
    (line,) = lines_of(store, lambda call: call("POST", "/get-online-features", json=asked))
    assert (line["route"], line["service"], line["entity_count"]) == ("/get-online-features", "plain", 2)
    assert line["fingerprint"] == store.plan("plain").fingerprint[:16]
    call("POST", "/get-online-features", json=asked)
    found = samples(call)
    assert found["featurestore_request_seconds_count", "/get-online-features", "plain"] == 1
    assert found["featurestore_entities_total", "plain"] == 2
    assert found["featurestore_compute_seconds_count", "plain"] == 1


def test_entity_keys_are_hashed_unless_wanted(store):
    def work(call):
        call.ask(entities=[{"user": 2}, {"user": 1}, {"user": 2}])

    (hashed,) = lines_of(store, work)
    first, second, third = hashed["entities"]
    assert first == third != second
    assert len(first) == 16
    (plain,) = lines_of(store, work, with_entity_keys=True)
    assert plain["entities"] == [{"user": 2}, {"user": 1}, {"user": 2}]


def test_no_key_and_no_value_is_in_a_line(store):
    def work(call):
        asked = {"service": "all_of_it", "entities": [{"user": 1}], "request": {"budget": 98765.5}}
        call("POST", "/v1/features", json=asked, headers={"authorization": "Bearer fs_secret"})

    text = json.dumps(lines_of(store, work))
    assert "fs_secret" not in text
    assert "98765" not in text
    assert "2.20" not in text


def test_lines_are_written_soon_without_being_asked_for(store):
    target = io.BytesIO()

    async def work():
        log = RequestLog(lambda: store.clock, writer=LineWriter(lambda: target))
        from featurestore.server.calls import Call

        call = Call({"headers": [], "method": "GET", "path": "/healthz"})
        log.record(call)
        await asyncio.sleep(0.3)

    asyncio.run(work())
    assert json.loads(target.getvalue())["method"] == "GET"


def test_what_goes_wrong_is_json_and_names_its_request():
    REQUEST_ID.set("r-7")
    try:
        raise ValueError("bad")
    except ValueError as error:
        record = logging.LogRecord("featurestore.x", logging.ERROR, "", 0, "it %s", ("broke",), None)
        record.exc_info = (ValueError, error, error.__traceback__)
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["level"], line["request_id"]) == ("it broke", "error", "r-7")
    assert "ValueError: bad" in line["exception"]


@pytest.fixture
def spans(store):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store.parts.config = store.config.model_copy(update={"server": ServerConfig(auth="none", traces=True)})
    app = create_app(store)
    app.telemetry._traces._tracer = provider.get_tracer("test")
    yield Caller(app), exporter.get_finished_spans
    provider.shutdown()


def test_a_request_is_a_span_below_its_callers(spans):
    call, finished = spans
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = {"service": "plain", "entities": [{"user": 1}]}
    call("POST", "/v1/features", json=asked, headers={"traceparent": parent, "x-request-id": "t"})
    (span,) = finished()
    assert span.name == "POST /v1/features"
    assert format(span.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert span.attributes["featurestore.service"] == "plain"
    assert span.attributes["featurestore.request_id"] == "t"
    assert span.attributes["http.response.status_code"] == 200
    assert span.end_time > span.start_time
