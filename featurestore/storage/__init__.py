"""Databases, files, leases and progress: storage that knows no feature."""

from featurestore.storage.leases import Hold, LeaseHolder, LeaseStore, busy, lost

__all__ = ["Hold", "LeaseHolder", "LeaseStore", "busy", "lost"]
