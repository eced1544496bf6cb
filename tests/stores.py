"""Every kind of online store, for tests that hold on each of them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.config import Config, ServingLogConfig

Urls = Callable[[], str]
"""Gives the URL of an empty online store, another one each time."""

NETWORKED = ("redis", "postgres")
OTHERS = ("memory", *NETWORKED)
"""All kinds but SQLite, the default."""


@pytest.fixture(scope="session")
def online_urls_of(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Gives the URL of an empty online store of a kind, another one each time."""

    def url_of(kind: str) -> str:
        name = uuid.uuid4().hex
        if kind == "memory":
            return f"memory://{name}"
        server: str = request.getfixturevalue(f"{kind}_url")
        return f"{server}?prefix={name}&lease=2s" if kind == "redis" else f"{server}?table=online_{name}"

    return url_of


@pytest.fixture(scope="session")
def online_urls(request: pytest.FixtureRequest, online_urls_of: Callable[[str], str]) -> Urls:
    """Stores of the kind that a test is parametrized with: ``parametrize("online_urls", OTHERS, indirect=True)``."""
    kind: str = request.param
    return lambda: online_urls_of(kind)


def local_store(
    folder: Path | str,
    *,
    online: str | None = None,
    event_log: str | None = None,
    has_serving_log: bool = True,
    **options,
) -> FeatureStore:
    """Open a store that keeps everything under a folder, which all processes of a test see, except what has a URL."""
    elsewhere = {name: url for name, url in (("online", online), ("event_log", event_log)) if url}
    shared = {"data_is_shared": True, "serving_log": ServingLogConfig(enabled=has_serving_log)}
    return FeatureStore(Config.local(folder).model_copy(update=elsewhere | shared), **options)
