"""Clients of a feature server, for code that asks and does not compute.

Importing this package loads httpx and msgspec and nothing that computes: no NumPy, Arrow, pandas, DuckDB or numba.
``pip install featurestore[client]`` adds httpx.
"""

from featurestore.client.clients import AsyncFeatureStoreClient, FeatureStoreClient
from featurestore.client.messages import Health, ServiceInfo
from featurestore.client.retries import Retries

__all__ = ["AsyncFeatureStoreClient", "FeatureStoreClient", "Health", "Retries", "ServiceInfo"]
