"""Waiting and retrying, with a sleep that only records."""

from __future__ import annotations

from itertools import islice
from math import inf

import pytest

from featurestore.core.retrying import Backoff, retry, wait_for


class Failing:
    """Work that fails some times before it succeeds."""

    def __init__(self, failures: float, error: Exception | None = None) -> None:
        self.left = failures
        self.attempts = 0
        self._error = error or OSError("away")

    def __call__(self) -> str:
        self.attempts += 1
        if self.left > 0:
            self.left -= 1
            raise self._error
        return "done"


def is_os_error(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(Backoff(0.5, longest_seconds=3).pauses(), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_jitter_only_shortens_pauses_and_by_no_more_than_its_share() -> None:
    plain = islice(Backoff(1.0, longest_seconds=8).pauses(), 50)
    jittered = list(islice(Backoff(1.0, longest_seconds=8, jitter=0.5).pauses(), 50))
    assert all(0.5 * pause <= shorter <= pause for pause, shorter in zip(plain, jittered, strict=True))
    assert len(set(jittered)) > 40


def test_work_is_repeated_until_it_succeeds_with_pauses_between() -> None:
    slept: list[float] = []
    work = Failing(3)
    assert retry(work, is_transient=is_os_error, backoff=Backoff(0.5), sleep=slept.append) == "done"
    assert (work.attempts, slept) == (4, [0.5, 1.0, 2.0])


def test_the_error_of_the_last_attempt_is_raised_once_all_attempts_are_used() -> None:
    work = Failing(inf)
    with pytest.raises(OSError, match="away"):
        retry(work, is_transient=is_os_error, attempts=3)
    assert work.attempts == 3


def test_an_error_that_is_not_transient_is_raised_at_once() -> None:
    work = Failing(inf, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retry(work, is_transient=is_os_error, attempts=3)
    assert work.attempts == 1


def test_no_time_allows_one_attempt_and_no_pause() -> None:
    slept: list[float] = []
    work = Failing(inf)
    with pytest.raises(OSError, match="away"):
        retry(work, is_transient=is_os_error, timeout_seconds=0, backoff=Backoff(1.0), sleep=slept.append)
    assert (work.attempts, slept) == (1, [])


def test_the_last_pause_ends_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("featurestore.core.retrying.time.monotonic", lambda: now[0])
    work = Failing(inf)
    with pytest.raises(OSError, match="away"):
        retry(work, is_transient=is_os_error, timeout_seconds=4.0, backoff=Backoff(1.0), sleep=sleep)
    assert slept == [1.0, 2.0, 1.0]
    assert work.attempts == 4


def test_a_sleep_that_raises_ends_the_waiting() -> None:
    def stop(_: float) -> None:
        raise InterruptedError

    work = Failing(inf)
    with pytest.raises(InterruptedError):
        retry(work, is_transient=is_os_error, backoff=Backoff(1.0), sleep=stop)
    assert work.attempts == 1


def test_waiting_for_a_condition_reports_whether_it_held_in_time() -> None:
    answers = iter([False, False, True])
    assert wait_for(lambda: next(answers), timeout_seconds=60, pause_seconds=0)
    assert not wait_for(lambda: False, timeout_seconds=0, pause_seconds=0)
