"""Health of the online side: whether services can be answered, and how far views and logs have come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.core.errors import FeatureStoreError
from featurestore.core.temporal import NOTHING_YET
from featurestore.online.stores.store import ViewRecord


@dataclass(frozen=True)
class ViewVitals:
    """Measurements of one view.

    Attributes:
        source: Name of its source.
        staleness_us: The present instant minus the instant up to which the view is complete, or last was; ``None`` if
            this process never saw it with state.
        log_us: The instant before which its state has all events of the log; ``None`` if it has no state.
        has_state: Whether it has state.
        is_lost: Whether some of its states are lost, so that it does not answer.
    """

    source: str
    staleness_us: int | None
    log_us: int | None
    has_state: bool
    is_lost: bool = False


@dataclass(frozen=True)
class LogVitals:
    """Head of the event log of one source.

    Attributes:
        head_us: The instant before which all its events became known.
        ahead_us: How far that is ahead of the present; 0 if it is not.
    """

    head_us: int
    ahead_us: int


@dataclass(frozen=True)
class Vitals:
    """Measurements of the online side.

    Attributes:
        views: The views that answer, by name.
        is_store_left_alone: Whether the circuit breaker is open: the online store failed a moment ago.
        store_problem: Why the online store could not be read; ``None`` if it could.
    """

    views: Mapping[str, ViewVitals] = field(default_factory=dict)
    is_store_left_alone: bool = False
    store_problem: FeatureStoreError | None = None


def view_vitals(source: str, record: ViewRecord, *, now_us: int, complete_us: int | None) -> ViewVitals:
    """Measure a view.

    Args:
        source: Name of its source.
        record: The record of its states in the store.
        now_us: The present instant.
        complete_us: The instant up to which the view is complete, or last was; ``None`` if it never had state.
    """
    has_state = record.watermark_us != NOTHING_YET
    return ViewVitals(
        source=source,
        staleness_us=None if complete_us is None else max(0, now_us - complete_us),
        log_us=max(record.log_us, record.watermark_us) if has_state else None,
        has_state=has_state,
        is_lost=record.lost is not None,
    )


@dataclass(frozen=True)
class ServiceReadiness:
    """Whether a service can be answered.

    Attributes:
        service: Name of the service.
        answered_before: Whether this process, or the previous one with the same data folder, could answer it.
        problem: Why it cannot be answered; ``None`` if it can.
    """

    service: str
    answered_before: bool
    problem: FeatureStoreError | None


@dataclass(frozen=True)
class Readiness:
    """Which services a process can answer.

    A service that was never answered, because it is new and has no state yet, is listed but does not make the process
    unready. Neither does an unreachable registry: the cached plans answer.

    Attributes:
        services: The services, sorted by name.
        registry_problem: Why the registry could not be read in time; ``None`` if it could.
    """

    services: tuple[ServiceReadiness, ...]
    registry_problem: FeatureStoreError | None = None

    @property
    def unready(self) -> tuple[ServiceReadiness, ...]:
        """The services that cannot be answered."""
        return tuple(service for service in self.services if service.problem is not None)

    @property
    def problem(self) -> FeatureStoreError | None:
        """Why the process is not ready; ``None`` if it is."""
        lost = next((service.problem for service in self.unready if service.answered_before), None)
        if lost is not None or len(self.unready) < len(self.services):
            return lost
        if self.services:
            return self.services[0].problem
        return self.registry_problem

    @property
    def is_ready(self) -> bool:
        """Whether the process can answer every service it answered before, and at least one if any are applied."""
        return self.problem is None
