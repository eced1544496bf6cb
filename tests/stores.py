"""Every kind of online store, for tests that hold on each of them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.config import Config

Urls = Callable[[], str]
"""Gives the URL of an empty online store, another one each time."""

NETWORKED = ("redis", "postgres")
OTHERS = ("memory", *NETWORKED)
"""All kinds but SQLite, the default."""


@pytest.fixture(scope="session")
def online_urls(request: pytest.FixtureRequest) -> Urls:
    """Stores of the kind that a test is parametrized with: ``parametrize("online_urls", OTHERS, indirect=True)``."""
    kind: str = request.param
    if kind == "memory":
        return lambda: f"memory://{uuid.uuid4().hex}"
    if kind == "redis":
        redis_url: str = request.getfixturevalue("redis_url")
        return lambda: f"{redis_url}?prefix={uuid.uuid4().hex}&lease=2s"
    postgres_url: str = request.getfixturevalue("postgres_url")
    return lambda: f"{postgres_url}?table=online_{uuid.uuid4().hex}"


def local_store(folder: Path | str, *, online: str | None = None, **options) -> FeatureStore:
    """Open a store that keeps everything under a folder, except online state if a URL is given for it."""
    config = Config.local(folder)
    return FeatureStore(config.model_copy(update={"online": online}) if online else config, **options)
