"""Former addresses of modules that programs import: they lead to the present ones, with a ``DeprecationWarning``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "featurestore.catalog": "featurestore.registry.catalog",
    "featurestore.dtypes": "featurestore.core.dtypes",
    "featurestore.errors": "featurestore.core.errors",
    "featurestore.event_log": "featurestore.sources.event_log",
    "featurestore.live": "featurestore.online.answering.live",
    "featurestore.materializing": "featurestore.online.filling.runs",
    "featurestore.online.lookup": "featurestore.online.answering.lookup",
    "featurestore.online.memory": "featurestore.online.stores.memory",
    "featurestore.online.question": "featurestore.core.answers",
    "featurestore.online.serving_log": "featurestore.serving_log",
    "featurestore.online.sql": "featurestore.online.stores.sql",
    "featurestore.online.store": "featurestore.online.stores.store",
    "featurestore.pushing": "featurestore.online.pushing",
    "featurestore.serving": "featurestore.online.answering.serving",
    "featurestore.skew.drift.compare": "featurestore.guard.drift.compare",
    "featurestore.skew.drift.policy": "featurestore.guard.drift.policy",
    "featurestore.skew.foreign": "featurestore.guard.audit.foreign",
    "featurestore.skew.policy": "featurestore.guard.audit.policy",
    "featurestore.skew.tolerance": "featurestore.guard.comparing.tolerance",
    "featurestore.statuses": "featurestore.core.statuses",
    "featurestore.temporal": "featurestore.core.temporal",
}
"""Former address to present address."""

_PACKAGES = ("featurestore.skew", "featurestore.skew.drift")


class MovedFinder(MetaPathFinder, Loader):
    """Finds modules by their former addresses. It is asked only for modules that no file has."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002  # as finders are called
        target: ModuleType | None = None,  # noqa: ARG002  # as finders are called
    ) -> ModuleSpec | None:
        """Return a spec for a former address, ``None`` for others."""
        if fullname in MOVED or fullname in _PACKAGES:
            return ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the present address in place of an empty one."""
        name = module.__name__
        if name in MOVED:
            warnings.warn(f"'{name}' has moved to '{MOVED[name]}'", DeprecationWarning, stacklevel=2)
            sys.modules[name] = import_module(MOVED[name])
