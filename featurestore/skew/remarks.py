"""What those who bring an audit its rows have to say of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Remarks:
    """What is said of rows while they are brought; it is complete once all of them were taken.

    Attributes:
        notes: What readers of the report should know, one line each.
        skipped: Rows that were served and cannot be compared, by reason.
    """

    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
