"""Answering applied services: which plan is live, and a bound reader for each.

A plan goes live when all its views have online state. Until then the plan that was live before keeps answering, so that
applying a definition interrupts nobody; every answer says which plan it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Any

from featurestore.catalog import Catalog
from featurestore.online.lookup import OnlineReader
from featurestore.online.result import OnlineFeatures
from featurestore.online.serving_log import ServingLog
from featurestore.online.store import OnlineStore, records_of
from featurestore.plan.model import Plan
from featurestore.temporal import NOTHING_YET, Clock, duration_us

RECHECK_US = duration_us("1s")
"""How long after an apply in another process the old plan may still answer."""


@dataclass(frozen=True)
class _Live:
    """A reader, and when its plan was last known to be the live one."""

    reader: OnlineReader
    checked_at_us: int


class Serving:
    """Answers online questions. May be used from several threads."""

    def __init__(self, catalog: Catalog, store: OnlineStore, log: ServingLog | None, clock: Clock) -> None:
        """Take the parts.

        Args:
            catalog: What is applied.
            store: Where states are kept.
            log: Takes what was answered; ``None`` keeps nothing.
            clock: Tells the present instant.
        """
        self._catalog = catalog
        self._store = store
        self._log = log
        self._clock = clock
        self._live: dict[str, _Live] = {}
        self._lock = Lock()

    def answer(
        self,
        service: str,
        entities: Sequence[Mapping[str, Any]],
        *,
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None,
        as_of: datetime | str | None,
        expected_fingerprint: str | None,
    ) -> OnlineFeatures:
        """Answer for some entities; see ``FeatureStore.get_online_features``."""
        reader = self._reader(service)
        answer = reader.get(entities, request=request, as_of=as_of, expected_fingerprint=expected_fingerprint)
        if self._log is not None:
            self._log.append(reader.plan, answer)
        return answer

    def check(self) -> None:
        """Make sure that every applied service can be answered, and load what answering needs.

        Raises:
            StateError: A view has no online state, or a damaged record.
            RegistryError: The registry cannot be read.
            StorageError: The online store cannot be read.
        """
        for service in self._catalog.services():
            self._reader(service).get([], request=[])

    def forget(self) -> None:
        """Ask anew which plans are live, with the next question."""
        with self._lock:
            self._live.clear()

    def _reader(self, service: str) -> OnlineReader:
        known = self._live.get(service)
        now_us = self._clock.now_us()
        if known is not None and 0 <= now_us - known.checked_at_us < RECHECK_US:
            return known.reader
        plan = self._live_plan(service)
        is_same = known is not None and known.reader.plan == plan
        reader = known.reader if known is not None and is_same else OnlineReader(plan, self._store, self._clock)
        with self._lock:
            self._live[service] = _Live(reader, now_us)
        return reader

    def _live_plan(self, service: str) -> Plan:
        """Return the newest plan of a service that can answer; the applied one if none can."""
        applied = self._catalog.plan(service)
        if self._is_filled(applied):
            return applied
        return next(filter(self._is_filled, self._catalog.past_plans(service)), applied)

    def _is_filled(self, plan: Plan) -> bool:
        records = records_of(self._store, [use.view for use in plan.uses])
        return all(record.watermark_us != NOTHING_YET for record in records.values())
