"""Findings: why values differ, as data. ``causes.findings_from_proof`` makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event that makes a difference.

    Attributes:
        event_time: When it happened, as text.
        ingest_time: When it became known, as text.
        values: The columns that the view reads, as text.
    """

    event_time: str
    ingest_time: str
    values: dict[str, str | None]


@dataclass(frozen=True)
class Example:
    """One value that a finding explains.

    Attributes:
        feature: Column of the answer.
        keys: The entity, as text.
        as_of: Instant asked about.
        reference: Value in the training set, as text; ``None`` is null.
        current: Value that was served, as text; ``None`` is null.
        reference_status: Status in the training set.
        current_status: Status that was served.
        events: Events that make the difference, oldest first; none where the cause is not about single events.
    """

    feature: str
    keys: dict[str, str | None]
    as_of: str
    reference: str | None
    current: str | None
    reference_status: str
    current_status: str
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One cause of differences, with its proof.

    Attributes:
        cause: Its name; two names with a plus where only both together explain the values; ``unexplained`` for values
            that no assumption reproduces.
        said: The assumption, in words.
        values: Values that come out exactly as served under it.
        share: Their share of all values that differ and were examined.
        rows: Rows in which it explains any value.
        features: Values per feature, most first.
        is_proven: Whether recomputation under the assumption gave the served values, and so many that it is not chance.
        evidence: Further observations that speak for it.
        fix: How to make both roads equal again.
        examples: Some of the values.
        parameters: Parameters of the assumption, for programs.
        fingerprint: Fingerprint of the plan that answered these rows.
    """

    cause: str
    said: str
    values: int
    share: float
    rows: int
    features: dict[str, int]
    is_proven: bool
    evidence: tuple[str, ...]
    fix: str
    examples: tuple[Example, ...]
    parameters: dict[str, str]
    fingerprint: str = ""
