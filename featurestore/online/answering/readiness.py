"""Whether a process can answer what it answered before."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.core.errors import FeatureStoreError


@dataclass(frozen=True)
class ServiceReadiness:
    """Whether a service can be answered.

    Attributes:
        service: Name of the service.
        answered_before: Whether this process could answer it before, or the one that ran here before it.
        problem: Why it cannot be answered; ``None`` if it can.
    """

    service: str
    answered_before: bool
    problem: FeatureStoreError | None


@dataclass(frozen=True)
class Readiness:
    """Which services a process can answer.

    A service that was never answered, because it is new and has no state yet, is named and takes no process out of
    rotation. Nor does a registry that is away: plans that are known answer on.

    Attributes:
        services: The services, sorted by name.
        registry_problem: Why the registry could not be asked in time; ``None`` if it was.
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
        lost = next((one.problem for one in self.unready if one.answered_before), None)
        if lost is not None or len(self.unready) < len(self.services):
            return lost
        if self.services:
            return self.services[0].problem
        return self.registry_problem

    @property
    def is_ready(self) -> bool:
        """Whether the process can answer every service it answered before, and any at all if there are some."""
        return self.problem is None
