"""Clients of a feature server, for code that looks features up and does not compute them.

Importing this package loads httpx and msgspec, but not NumPy, Arrow, pandas, DuckDB or numba.
``pip install featurestore[client]`` adds httpx.
"""

from featurestore.client.clients import AsyncFeatureStoreClient, FeatureStoreClient
from featurestore.client.messages import Health, ServiceInfo
from featurestore.client.retries import Retries

__all__ = ["AsyncFeatureStoreClient", "FeatureStoreClient", "Health", "Retries", "ServiceInfo"]
