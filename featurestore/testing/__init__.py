"""For users' own tests: definitions on small frames, and what an online store must be able to do.

``evaluate`` needs the whole library, ``OnlineStoreConformance`` (in ``featurestore.testing.conformance``) only a store;
each is loaded when it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.testing.conformance import OnlineStoreConformance
    from featurestore.testing.evaluation import evaluate

__all__ = ["OnlineStoreConformance", "evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from featurestore.testing.evaluation import evaluate

        return evaluate
    if name == "OnlineStoreConformance":
        from featurestore.testing.conformance import OnlineStoreConformance

        return OnlineStoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
