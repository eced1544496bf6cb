"""From a proof to findings: values with the same cause are counted together and shown by examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Ints
from featurestore.core.statuses import Status, status_name
from featurestore.core.temporal import format_instant, instant_us
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.causes.explanation import Proof
from featurestore.guard.causes.hypotheses import missed_refresh
from featurestore.guard.causes.hypotheses.source_rewritten import rewritten_sources
from featurestore.guard.causes.lateness import ValueCounts, lateness_of
from featurestore.guard.causes.model import Assumption, Case, cause_text
from featurestore.guard.comparing.findings import Event, Example, Finding
from featurestore.guard.world.world import ViewWorld, views_read
from featurestore.serving_log.columns import key_column

_MOST_EXAMPLES = 3
_MOST_EVENTS = 5
_LONGEST_TEXT = 200
_UNEXPLAINED_STATEMENT = "no assumption reproduces these values"
_UNEXPLAINED_FIX = (
    "Look at the examples: whatever stands between the online store and the log may have changed them. featurestore"
    " keeps no record of what happens there."
)

_Key = tuple[str, bool, str]
"""What the values of one finding have in common: the cause, whether it is proven, and the statement or the view."""


class Findings:
    """The findings of an audit, collected round by round."""

    def __init__(self) -> None:
        """Begin without findings."""
        self._by_key: dict[_Key, Finding] = {}

    def add(self, case: Case, proof: Proof, counts: ValueCounts) -> None:
        """Add the explanation of some more rows of the same plan.

        Args:
            case: The rows, with all values that were to be explained.
            proof: What explains them; its assumptions about single events include the events of earlier rounds.
            counts: How many values the log has, of which the case holds some.
        """
        grouped: dict[_Key, list[int]] = defaultdict(list)
        for number, assumption in enumerate(proof.assumptions):
            grouped[cause_text(assumption.cause), assumption.is_proven, _merged_by(assumption)].append(number)
        for key, numbers in grouped.items():
            self._add(key, _finding(case, proof, numbers, None if key in self._by_key else counts))
        self._add((UNEXPLAINED, False, ""), _unexplained(case, proof))

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, most values first; unexplained values come last."""
        total = sum(finding.values for finding in self._by_key.values())
        ordered = sorted(
            self._by_key.values(),
            key=lambda finding: (finding.cause == UNEXPLAINED, -finding.values, finding.cause, finding.said),
        )
        return tuple(replace(finding, share=finding.values / total) for finding in ordered)

    def _add(self, key: _Key, finding: Finding | None) -> None:
        """Add the values of a finding; evidence and examples are those of the first round that has any."""
        if finding is None:
            return
        known = self._by_key.get(key, replace(finding, values=0, rows=0, features={}))
        counts = Counter(known.features) + Counter(finding.features)
        self._by_key[key] = replace(
            known,
            said=finding.said,
            parameters=finding.parameters,
            values=known.values + finding.values,
            rows=known.rows + finding.rows,
            features=_most_first(counts),
        )


def cause_of(case: Case, proof: Proof, name: str, row: int) -> tuple[str, tuple[Event, ...]]:
    """Return the cause of one value that differs, and the events that make the difference.

    Args:
        case: The rows.
        proof: What explains them.
        name: The output.
        row: The row.
    """
    owner = int(proof.owner[name][row])
    if owner < 0:
        return UNEXPLAINED, ()
    assumption = proof.assumptions[owner]
    return cause_text(assumption.cause), _events_behind(case, name, row, assumption.events)


def _merged_by(assumption: Assumption) -> str:
    """Return what assumptions of one finding have in common: the view where events are searched, else the statement."""
    return str(assumption.parameters.get("view")) if assumption.is_searched else assumption.statement


@dataclass(frozen=True)
class _Group:
    """Values of a case that have one cause.

    Attributes:
        case: The case.
        flags: Per output the rows with such a value.
        events: Numbers of the events that make the difference, by alias.
    """

    case: Case
    flags: Mapping[str, Flags]
    events: Mapping[str, Ints] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Values by output, of the outputs with any; most first."""
        return _most_first({name: int(flags.sum()) for name, flags in self.flags.items() if bool(flags.any())})

    def finding(
        self, *, cause: str, statement: str, evidence: Sequence[str], fix: str, assumption: Assumption | None = None
    ) -> Finding:
        """Return what is reported of the values; no assumption explains those without a cause."""
        counts = self.counts
        parameters = {} if assumption is None else assumption.parameters
        return Finding(
            cause=cause,
            said=statement,
            values=sum(counts.values()),
            share=0.0,
            rows=int(np.any(list(self.flags.values()), axis=0).sum()),
            features=counts,
            is_proven=assumption is not None and assumption.is_proven,
            evidence=tuple(evidence),
            fix=fix,
            examples=tuple(self._examples(counts)),
            parameters={name: str(value) for name, value in parameters.items()},
            fingerprint=self.case.world.plan.fingerprint,
        )

    def _examples(self, counts: Mapping[str, int]) -> Iterator[Example]:
        """Yield a first value of each of the features concerned most, then more of the first of them."""
        shown = 0
        for name, place in ((name, place) for place in range(_MOST_EXAMPLES) for name in counts):
            rows = np.flatnonzero(self.flags[name])
            if place < len(rows) and shown < _MOST_EXAMPLES:
                yield self._example(name, int(rows[place]))
                shown += 1

    def _example(self, name: str, row: int) -> Example:
        world = self.case.world
        reference, served = self.case.reference[name], self.case.served[name]
        return Example(
            feature=name,
            keys={key.name: _text(world.log.column(key_column(key.name))[row].as_py()) for key in world.plan.join_keys},
            as_of=format_instant(int(world.as_of[row])),
            reference=_text(reference.values[row].as_py()),
            current=_text(served.values[row].as_py()),
            reference_status=Status(int(reference.statuses[row])).name,
            current_status=status_name(int(served.statuses[row])),
            events=_events_behind(self.case, name, row, self.events),
        )


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _finding(case: Case, proof: Proof, numbers: Sequence[int], counts: ValueCounts | None) -> Finding | None:
    """Return what some assumptions explain together; without counts the lateness of refreshes is not examined."""
    first = proof.assumptions[numbers[0]]
    flags = {name: np.isin(owner, numbers) & case.differs[name] for name, owner in proof.owner.items()}
    if not any(bool(rows.any()) for rows in flags.values()):
        return None
    events: dict[str, Ints] = {}
    for number in numbers:
        for alias, of_view in proof.assumptions[number].events.items():
            events[alias] = np.union1d(events.get(alias, np.zeros(0, dtype=np.int64)), of_view)
    evidence = list(dict.fromkeys(first.evidence))
    fix = first.fix
    if counts is not None and missed_refresh.NAME in first.cause:
        lateness = lateness_of(case, flags, counts)
        evidence += lateness.evidence
        fix = fix.replace(missed_refresh.FIX, lateness.fix or missed_refresh.FIX)
    return _Group(case, flags, events).finding(
        cause=cause_text(first.cause),
        # The last step of a search states all events that were found.
        statement=proof.assumptions[numbers[-1]].statement,
        evidence=evidence,
        fix=fix,
        assumption=first,
    )


def _unexplained(case: Case, proof: Proof) -> Finding | None:
    flags = proof.unexplained(case)
    names = [name for name, rows in flags.items() if bool(rows.any())]
    if not names:
        return None
    aliases = {alias for name in names for alias in views_read(case.world.plan, name)}
    evidence = [
        line
        for change in rewritten_sources(case, aliases)
        for line in (
            # Values that came from rows which are no longer there cannot be computed again.
            f"source '{change.source}' no longer holds all that was read; what was served from that cannot be computed",
            *change.descriptions,
        )
    ]
    return _Group(case, flags).finding(
        cause=UNEXPLAINED,
        statement=_UNEXPLAINED_STATEMENT,
        evidence=list(dict.fromkeys(evidence)),
        fix=_UNEXPLAINED_FIX,
    )


def _events_behind(case: Case, name: str, row: int, events: Mapping[str, Ints]) -> tuple[Event, ...]:
    """Return those of some events that an output of a row is computed from, oldest first."""
    aliases = sorted(views_read(case.world.plan, name) & events.keys())
    return tuple(
        event for alias in aliases for event in _events_of_entity(case.world.views[alias], row, events[alias])
    )[:_MOST_EVENTS]


def _events_of_entity(view: ViewWorld, row: int, numbers: Ints) -> Iterator[Event]:
    """Yield those of some events that are of a row's entity, oldest first."""
    index, codes = view.events.index
    code = index.codes([key.slice(row, 1) for key in view.keys])[0]
    rows = view.events.rows_of(numbers)
    rows = rows[codes[rows] == code]
    source = view.view.source
    table = view.events.table.take(pa.array(rows)).sort_by(source.event_time)
    ingest_time = source.ingest_time or source.event_time
    for event in table.to_pylist():
        yield Event(
            event_time=_text(event[source.event_time]) or "",
            ingest_time=_text(event[ingest_time]) or "",
            values={
                name: _text(value) for name, value in event.items() if name not in (source.event_time, ingest_time)
            },
        )


def _text(value: object) -> str | None:
    if value is None:
        return None
    text = format_instant(instant_us(value)) if isinstance(value, datetime) else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
