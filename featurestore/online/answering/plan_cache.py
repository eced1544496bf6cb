"""The plans that a server answered by last, in a file: it starts with them while the registry is away."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from featurestore.core.errors import FeatureStoreError
from featurestore.plan.model import Plan
from featurestore.storage.files import write_bytes

_LOGGER = logging.getLogger("featurestore.online.answering")
_VERSION = 1


class PlanCache:
    """The plans of services in one file. May be used from several threads; of several processes the last one wins."""

    def __init__(self, folder: Path, registry: str) -> None:
        """Take where the file lies; nothing is read yet.

        Args:
            folder: Its folder; it is made when plans are kept.
            registry: URL of the registry that the plans come from: each has a file of its own. User and password do not
                count.
        """
        address = urlsplit(registry)
        place = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        self._file = folder / f"plans-{sha256(place.encode()).hexdigest()[:12]}.json"
        self._kept: frozenset[tuple[str, str]] = frozenset()
        self._has_failed = False
        self._lock = Lock()

    def read(self) -> tuple[Plan, ...]:
        """Return the plans, those that answered first; none if there is no file, or if it is damaged.

        A plan that is not the one its fingerprint says is left out.
        """
        try:
            written = json.loads(self._file.read_bytes())
            entries = written["plans"] if written["version"] == _VERSION else []
            return tuple(plan for entry in entries if (plan := self._checked(entry)) is not None)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, LookupError, TypeError) as error:
            _LOGGER.warning("the plans in '%s' cannot be read: %s", self._file, error)
            return ()

    def keep(self, plans: Collection[Plan]) -> None:
        """Write the plans if they differ from those written last; a disk that refuses is no failure of the caller.

        Args:
            plans: The plans that answer; of a service with several the first is the live one.
        """
        named = frozenset((plan.name, plan.fingerprint) for plan in plans)
        with self._lock:
            if named == self._kept:
                return
            entries = [
                {"fingerprint": plan.fingerprint, "plan": plan.to_json(), "service": plan.name} for plan in plans
            ]
            try:
                write_bytes(json.dumps({"version": _VERSION, "plans": entries}).encode(), self._file)
            except OSError as error:
                if not self._has_failed:
                    _LOGGER.warning(
                        "plans cannot be written to '%s' (%s): no server starts with them while the registry is away",
                        self._file,
                        error.strerror,
                    )
                self._has_failed = True
            else:
                self._kept, self._has_failed = named, False

    def _checked(self, entry: dict[str, str]) -> Plan | None:
        """Return the plan of an entry, ``None`` if it is not the one that was written."""
        try:
            plan = Plan.from_json(entry["plan"])
        except FeatureStoreError as error:
            _LOGGER.warning("a plan in '%s' cannot be read: %s", self._file, error)
            return None
        if (plan.name, plan.fingerprint) != (entry["service"], entry["fingerprint"]):
            _LOGGER.warning("a plan of '%s' in '%s' is damaged", entry["service"], self._file)
            return None
        return plan
