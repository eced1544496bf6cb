"""Settings for all tests."""

import os

from hypothesis import settings

from tests.servers import postgres_database, postgres_url, redis_url  # noqa: F401  # fixtures of all tests
from tests.stores import online_urls, online_urls_of  # noqa: F401

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

FEAST_PYTHON = os.environ.pop("FEATURESTORE_TEST_FEAST_PYTHON", "")
"""An interpreter that has Feast. The variable is taken away: it would look like an override of the configuration."""
