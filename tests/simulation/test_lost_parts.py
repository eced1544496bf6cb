"""Histories in which parts of a store get lost: no answer is silently wrong, and a run heals everything.

A few seeds in every run. For thousands: ``python -m tests.simulation.lost_parts 0 5000``.
"""

import pytest
import redis

from featurestore.online.answering import state_watch
from tests.budget import times
from tests.simulation.lost_parts import LostPartsWorld


@pytest.fixture(autouse=True)
def _every_look_counts(monkeypatch):
    monkeypatch.setattr(state_watch, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(state_watch, "_SHARE", 1e9)


@pytest.mark.parametrize("seed", range(times(4)))
def test_an_answer_is_right_or_an_error_or_flagged(tmp_path, seed):
    check(LostPartsWorld(tmp_path, seed))


class RedisKeys:
    """The keys of one prefix in Redis, to be lost one by one."""

    def __init__(self, url):
        address, _, options = url.partition("?")
        self._client = redis.Redis.from_url(address)
        self._prefix = dict(part.split("=") for part in options.split("&"))["prefix"].encode() + b"|s"

    def all(self):
        return sorted(key.removeprefix(self._prefix) for key in self._client.scan_iter(self._prefix + b"*"))

    def lose(self, key):
        self._client.delete(self._prefix + key)


def test_it_is_with_redis(tmp_path, online_urls_of):
    url = online_urls_of("redis")
    check(LostPartsWorld(tmp_path, 1, online=url, keys=RedisKeys(url)))


def check(world):
    try:
        world.live()
    finally:
        world.close()
    assert world.right > 5
