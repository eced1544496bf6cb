"""Names that one process holds alone, whatever store they are about, and leases for stores that know only rows or keys.

What it must not know: any store.
"""

from featurestore.storage.leases import Hold, LeaseHolder, LeaseStore, busy, lost

__all__ = ["Hold", "LeaseHolder", "LeaseStore", "busy", "lost"]
