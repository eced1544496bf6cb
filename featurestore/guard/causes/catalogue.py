"""Every cause an audit can prove, in the order that breaks ties: the first of those that explain as much is named.

What the log or the registry says itself comes first, then what happened to the events, then rules that were read
differently, then what was done to values and requests.
"""

from __future__ import annotations

from featurestore.guard.causes.arrivals import CAME_LATER, LATE_LOST
from featurestore.guard.causes.defaults import DEFAULT_FOR_NULL
from featurestore.guard.causes.deliveries import DELIVERIES, LATE_SEARCHED
from featurestore.guard.causes.entities import KEY_FORMAT, MISSING
from featurestore.guard.causes.listing import LIST_ORDER
from featurestore.guard.causes.model import Hypothesis
from featurestore.guard.causes.precision import PRECISION
from featurestore.guard.causes.refreshing import REFRESHING
from featurestore.guard.causes.requests import REQUESTS
from featurestore.guard.causes.rewriting import REWRITTEN
from featurestore.guard.causes.rules import DEFINITION, LATE, RULES
from featurestore.guard.causes.spelling import TEXT_FORMAT
from featurestore.guard.causes.units import UNIT_OR_SCALE
from featurestore.guard.causes.windows import WINDOWS

VALUES = (DEFAULT_FOR_NULL, PRECISION, UNIT_OR_SCALE, LIST_ORDER, TEXT_FORMAT)


HYPOTHESES: tuple[Hypothesis, ...] = (
    MISSING,
    DEFINITION,
    CAME_LATER,
    REWRITTEN,
    REFRESHING[0],
    LATE,
    REFRESHING[1],
    *RULES,
    *VALUES,
    *WINDOWS,
    *REQUESTS,
    KEY_FORMAT,
    DELIVERIES[0],
    LATE_LOST,
    DELIVERIES[1],
    LATE_SEARCHED,
)
"""All hypotheses, simplest first."""

UNEXPLAINED = "unexplained"
"""The cause of a value that no assumption reproduces."""

CAUSES: tuple[str, ...] = (*dict.fromkeys(hypothesis.name for hypothesis in HYPOTHESES), UNEXPLAINED)
"""Names of all causes, simplest first."""
