"""People are told once of each thing that is wrong, by each way, and when all is well again."""

import json
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.config import AlertsConfig
from featurestore.core.temporal import FixedClock, duration_us
from featurestore.guard.alerts import (
    DELIVERED,
    UNDELIVERED,
    Alerts,
    News,
    news_of_audit,
    news_of_job,
)
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.findings import Finding
from featurestore.registry import JobRecord, Registry

HOUR = duration_us("1h")


def report(verdict, wrong=None, **fields):
    """Return a report in which features differ for causes."""
    instant = "2024-05-01T00:00:00Z"
    causes = wrong or {}
    findings = tuple(
        Finding(cause, "", 1, 1.0, 1, {name: 1}, is_proven=True, evidence=(), fix="", examples=(), parameters={})
        for name, cause in causes.items()
    )
    features = tuple(FeatureCounts(name, "int64", equal=8, mismatch=1) for name in causes)
    counts = AuditReport("model", instant, instant, instant, 9, 9, 0, 0, {}, features)
    given = {"verdict": verdict, "reasons": (f"{len(causes)} differ",), "findings": findings, "id": 7}
    return replace(counts, **given | fields)


@pytest.fixture
def clock():
    return FixedClock(1_700_000_000_000_000)


@pytest.fixture
def alerts(registry, clock, hook):
    return Alerts(AlertsConfig(webhook=hook.url), registry, clock)


def told(hook):
    return [message["text"] for message, *_ in hook.got]


def test_the_same_is_told_once_a_second_feature_is_news_and_so_is_the_end(alerts, hook):
    first, second = {"a": "late_event"}, {"a": "late_event", "b": "late_event"}
    assert alerts.send(news_of_audit(report("pass"))) == "", "nobody heard of anything wrong"
    for found in (first, first, second, second):
        alerts.send(news_of_audit(report("fail", found)))
    assert alerts.send(news_of_audit(report("pass"))) == DELIVERED
    assert alerts.send(news_of_audit(report("pass"))) == ""
    assert told(hook) == [
        "model: fail: 1 differ (audit 7)",
        "model: fail: 2 differ (audit 7)",
        "model: pass again (audit 7)",
    ]
    assert [message["recovered"] for message, *_ in hook.got] == [False, False, True]


def test_what_a_policy_allows_is_no_news(alerts, hook):
    """A pass with allowed differences was told as a recovery from a pass without."""
    alerts.send(news_of_audit(report("fail", {"a": "boundary"})))
    for found in ({}, {"a": "late_event"}, {}, {"a": "late_event"}):
        alerts.send(news_of_audit(report("pass", found)))
    assert len(hook.got) == 2


def test_an_audit_of_a_share_does_not_say_that_what_a_full_one_found_is_over(alerts, hook):
    for _ in range(3):
        alerts.send(news_of_audit(report("fail", {"a": "late_event"})))
        alerts.send(news_of_audit(report("pass", sample=0.1)))
        alerts.send(news_of_audit(report("pass", kind="live")))
    assert len(hook.got) == 1


def test_audits_of_two_jobs_are_two_things(alerts, hook):
    for job in ("hourly", "daily", "hourly"):
        alerts.send(news_of_audit(report("fail", {"a": "late_event"}), job))
    assert [message["job"] for message, *_ in hook.got] == ["hourly", "daily"]


def test_what_comes_and_goes_is_told_once_until_all_is_well(alerts, hook):
    for found in ({"a": "x"}, {"a": "x", "b": "x"}, {"b": "x"}, {"a": "x"}, {"a": "x", "b": "x"}):
        alerts.send(news_of_audit(report("fail", found)))
    assert len(hook.got) == 2


def test_a_message_says_which_audit_of_what_period_found_what_and_where_it_stands(registry, clock, hook):
    url = "https://reports.test/{service}/{kind}/{id}"
    Alerts(AlertsConfig(webhook=hook.url, report_url=url), registry, clock).send(
        news_of_audit(report("fail", {"a": "late_event"}))
    )
    ((message, *_),) = hook.got
    assert message["report"] == "https://reports.test/model/audit/7"
    assert (message["id"], message["kind"], message["verdict"]) == (7, "audit", "fail")
    assert message["since"] == message["until"] == message["ran_at"] == "2024-05-01T00:00:00Z"
    assert (message["causes"], message["different"]) == ({"late_event": 1}, 1)


def test_what_goes_on_is_told_again_after_a_while_as_it_is_by_then(registry, clock, hook):
    alerts = Alerts(AlertsConfig(webhook=hook.url, remind="24h"), registry, clock)
    wrong = {"a": "x", "b": "x"}
    for hours in range(60):
        alerts.send(news_of_audit(report("fail", wrong if hours < 5 else {"a": "x"})))
        clock.instant_us += HOUR
    assert [message["reminder"] for message, *_ in hook.got] == [False, True, True]
    assert told(hook)[1] == "model: still fail: 1 differ (audit 7)"
    alerts.send(news_of_audit(report("fail", wrong)))
    assert len(hook.got) == 4, "what the reminder did not name is news when it comes back"


def test_nobody_is_reminded_who_does_not_want_to_be(registry, clock, hook):
    alerts = Alerts(AlertsConfig(webhook=hook.url, remind="0s"), registry, clock)
    for _ in range(3):
        alerts.send(news_of_audit(report("fail", {"a": "x"})))
        clock.instant_us += 99 * HOUR
    assert len(hook.got) == 1


def test_a_way_that_fails_is_tried_again_alone(registry, clock, hook):
    """Every audit was posted again because a command failed, and nobody heard that it was over."""
    alerts = Alerts(AlertsConfig(webhook=hook.url, command=["false"]), registry, clock)
    for _ in range(3):
        assert alerts.send(news_of_audit(report("fail", {"a": "x"}))) == UNDELIVERED
    assert len(hook.got) == 1
    command, webhook = registry.alerts()
    assert (command.way, command.told, command.told_at_us) == ("command", (), 0)
    assert "exit status 1" in command.problem
    assert (webhook.way, webhook.told, webhook.problem) == ("webhook", ("a: x",), "")
    assert alerts.send(news_of_audit(report("pass"))) == DELIVERED, "the command told nobody, so there is nothing over"
    assert [message["recovered"] for message, *_ in hook.got] == [False, True]


def test_what_was_told_is_known_however_often_telling_failed_since(alerts, registry, hook, monkeypatch):
    monkeypatch.setattr("featurestore.guard.alerts.channels._ATTEMPTS", 1)
    alerts.send(news_of_audit(report("fail", {"a": "x"})))
    hook.answers += [500] * 105
    for _ in range(105):
        alerts.send(news_of_audit(report("fail", {"a": "x", "b": "x"})))
    assert alerts.send(news_of_audit(report("pass"))) == DELIVERED
    assert hook.got[-1][0]["recovered"] is True


def test_a_job_that_fails_is_told_once_and_that_it_is_done_again(alerts, hook):
    for outcome in ("done", "failed", "failed", "done", "done"):
        alerts.send(news_of_job(JobRecord("refresh every 1h", 1, 2, outcome, "no disk")))
    assert told(hook) == ["refresh every 1h: failed: no disk", "refresh every 1h: done again"]
    assert hook.got[0][0]["report"] == ""


def test_another_process_knows_what_this_one_told(registry, clock, tmp_path):
    target = tmp_path / "told.json"
    program = f"import sys, pathlib; pathlib.Path({str(target)!r}).write_text(sys.stdin.read())"
    command = AlertsConfig(command=[sys.executable, "-c", program])
    assert Alerts(command, registry, clock).send(news_of_audit(report("fail", {"a": "x"}))) == DELIVERED
    assert json.loads(target.read_text())["verdict"] == "fail"
    assert Alerts(command, registry, clock).send(news_of_audit(report("fail", {"a": "x"}))) == ""


STATES = st.lists(st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("c",)]), max_size=12)


@given(states=STATES, failures=st.lists(st.booleans(), max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whoever_can_be_told_knows_what_is_wrong_and_is_told_nothing_twice(states, failures, monkeypatch):
    """Against a loop that keeps a set."""
    sent, failing = [], iter(failures)

    def deliver(_way, message):
        if next(failing, False):
            return False, "no"
        sent.append((message["recovered"], message["verdict"]))
        return True, ""

    monkeypatch.setattr("featurestore.guard.alerts.alerts.deliver", deliver)
    with Registry("sqlite://") as registry:
        alerts = Alerts(AlertsConfig(command=["x"]), registry, FixedClock(0))
        known, expected, planned = set(), [], iter(failures)
        for state in states:
            alerts.send(News("audit", "j", "s", "|".join(state), state, ""))
            is_news = bool(known) if not state else not set(state) <= known
            if is_news and not next(planned, False):
                expected.append((not state, "|".join(state)))
                known = known | set(state) if state else set()
    assert sent == expected
