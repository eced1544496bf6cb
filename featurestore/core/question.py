"""A question to the online road, as it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple


class OnlineQuestion(NamedTuple):
    """What somebody wants to know of a service; ``FeatureStore.get_online_features`` says what each part means.

    Attributes:
        service: Name of the service.
        entities: Per row of the answer the key columns by name.
        request: Request inputs: one mapping for all entities, or one per entity.
        as_of: Instant asked about; the present one if ``None``.
        expected_fingerprint: The plan the caller was trained on. It answers, live or not, if its states are there;
            otherwise that is an error.
        request_id: Name of the request; made up if ``None``.
        partial: Whether views may answer if others cannot.
        model: Name of the model that asks, for the serving log.
        model_version: Its version.
        takes_live_plan: Whether the live plan may answer if the expected one cannot.
    """

    service: str
    entities: Sequence[Mapping[str, Any]]
    request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None
    as_of: datetime | str | None = None
    expected_fingerprint: str | None = None
    request_id: str | None = None
    partial: bool = False
    model: str | None = None
    model_version: str | None = None
    takes_live_plan: bool = False
