"""The live plans of a server, cached in a file: the server can start with them while the registry cannot be reached."""

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
    """The plans of services in one file. May be used from several threads; of several processes the last write wins.

    Attributes:
        file: The file.
    """

    def __init__(self, folder: Path, registry: str) -> None:
        """Set the path of the file; nothing is read yet.

        Args:
            folder: Its folder; it is made when plans are written.
            registry: URL of the registry that the plans come from: each registry has its own file. User and password
                do not count.
        """
        address = urlsplit(registry)
        place = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        self.file = folder / f"plans-{sha256(place.encode()).hexdigest()[:12]}.json"
        self._written: frozenset[tuple[str, str]] = frozenset()
        self._has_failed = False
        self._lock = Lock()

    def read(self) -> tuple[Plan, ...]:
        """Return the plans, of each service the live one first; none if the file is missing or damaged.

        A plan that does not match its fingerprint is left out.
        """
        try:
            content = json.loads(self.file.read_bytes())
            entries = content["plans"] if content["version"] == _VERSION else []
            return tuple(plan for entry in entries if (plan := self._checked(entry)) is not None)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, LookupError, TypeError) as error:
            _LOGGER.warning("the plans in '%s' cannot be read: %s", self.file, error)
            return ()

    def keep(self, plans: Collection[Plan]) -> None:
        """Write the plans if they differ from those written last; a failure of the disk is logged and not raised.

        Args:
            plans: The plans that answer; of a service with several the first one is live.
        """
        names = frozenset((plan.name, plan.fingerprint) for plan in plans)
        with self._lock:
            if names == self._written:
                return
            entries = [
                {"fingerprint": plan.fingerprint, "plan": plan.to_json(), "service": plan.name} for plan in plans
            ]
            try:
                write_bytes(json.dumps({"version": _VERSION, "plans": entries}).encode(), self.file)
            except OSError as error:
                if not self._has_failed:
                    _LOGGER.warning(
                        "plans cannot be cached in '%s' (%s): no server can start while the registry is unreachable",
                        self.file,
                        error.strerror,
                    )
                self._has_failed = True
            else:
                self._written, self._has_failed = names, False

    def _checked(self, entry: dict[str, str]) -> Plan | None:
        """Return the plan of an entry; ``None`` if it is damaged."""
        try:
            plan = Plan.from_json(entry["plan"])
        except FeatureStoreError as error:
            _LOGGER.warning("a plan in '%s' cannot be read: %s", self.file, error)
            return None
        if (plan.name, plan.fingerprint) != (entry["service"], entry["fingerprint"]):
            _LOGGER.warning("a plan of '%s' in '%s' is damaged", entry["service"], self.file)
            return None
        return plan
