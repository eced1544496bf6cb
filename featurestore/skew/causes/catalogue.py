"""Every cause an audit can prove, in the order that breaks ties: the first of those that explain as much is named.

What the log or the registry says itself comes first, then what happened to the events, then rules that were read
differently, then what was done to values and requests.
"""

from __future__ import annotations

from featurestore.skew.causes.arrivals import CAME_LATER, LATE_LOST
from featurestore.skew.causes.deliveries import DELIVERIES, LATE_SEARCHED
from featurestore.skew.causes.entities import KEY_FORMAT, MISSING
from featurestore.skew.causes.model import Hypothesis
from featurestore.skew.causes.refreshing import REFRESHING
from featurestore.skew.causes.requests import REQUESTS
from featurestore.skew.causes.rewriting import REWRITTEN
from featurestore.skew.causes.rules import DEFINITION, LATE, RULES
from featurestore.skew.causes.values import VALUES
from featurestore.skew.causes.windows import WINDOWS

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
