"""``stale_request_input``: request inputs came from the entity's request before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import World

PREVIOUS = "previous__"
"""Prefix of the columns with the request inputs of the entity's row before, in the log an audit prepares."""


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose the inputs of the entity's request before: each alone, and all together."""
    names = [name for name in case.world.requests if f"{PREVIOUS}{name}" in case.world.log.column_names]
    for chosen in (*([name] for name in names), *([names] if len(names) > 1 else [])):
        yield Assumption(
            f"{' and '.join(chosen)} came from the entity's request before",
            partial(_with_previous, chosen),
            {"inputs": ", ".join(chosen)},
            fix=f"Send {' and '.join(chosen)} with each request; look for a cache or a reused message.",
        )


def _with_previous(names: Sequence[str], world: World) -> World | None:
    if not all(f"{PREVIOUS}{name}" in world.log.column_names for name in names):
        return None
    previous = {name: world.column(f"{PREVIOUS}{name}") for name in names}
    return replace(world, requests={**world.requests, **previous})


STALE_REQUEST_INPUT = Hypothesis(
    "stale_request_input", rank=180, meaning="request inputs came from an earlier request", propose=_propose
)
