"""From a proof to findings: the same assumptions are put together, counted, and shown by examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.statuses import Status, status_name
from featurestore.core.temporal import format_instant, instant_us
from featurestore.guard.causes.catalogue import UNEXPLAINED
from featurestore.guard.causes.lags import Counted, lag_evidence
from featurestore.guard.causes.model import Case, SourceChange, Variant
from featurestore.guard.causes.prove import Proof
from featurestore.guard.causes.refreshing import ON_TIME
from featurestore.guard.causes.rewriting import changes_of
from featurestore.guard.comparing.findings import Event, Example, Finding
from featurestore.guard.world.world import ViewWorld, World, operands
from featurestore.plan.names import view_of
from featurestore.serving_log.columns import key_column

_EXAMPLES = 3
_EVENTS = 5
_MOST_TEXT = 200
_UNEXPLAINED_SAID = "no assumption reproduces these values"
_UNEXPLAINED_FIX = (
    "Look at the examples: whatever stands between the online store and the log may have changed them. featurestore"
    " keeps no record of what happens there."
)


class Findings:
    """What explains rows, told as one though they were explained round by round."""

    def __init__(self) -> None:
        """Begin with nothing found."""
        self._found: dict[tuple[str, bool, str], Finding] = {}

    def add(self, case: Case, proof: Proof, counted: Counted) -> None:
        """Add what explains some more rows of the same plan.

        Args:
            case: The rows, with everything that was to be explained.
            proof: What explains it; what it says of single events it says of those of earlier rounds, too.
            counted: How many values the log has, of which the case holds some.
        """
        grouped: dict[tuple[str, bool, str], list[int]] = defaultdict(list)
        for number, variant in enumerate(proof.variants):
            grouped[variant.cause, variant.is_proven, _merged_by(variant)].append(number)
        for key, numbers in grouped.items():
            self._put(key, _finding(case, proof, numbers, None if key in self._found else counted))
        self._put((UNEXPLAINED, False, ""), _unexplained(case, proof))

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, most values first; what nothing explains comes last."""
        total = sum(one.values for one in self._found.values())
        ordered = sorted(
            self._found.values(), key=lambda one: (one.cause == UNEXPLAINED, -one.values, one.cause, one.said)
        )
        return tuple(replace(one, share=one.values / total) for one in ordered)

    def _put(self, key: tuple[str, bool, str], found: Finding | None) -> None:
        """Add values to what was found before; evidence and examples are those of the first round that has any."""
        if found is None:
            return
        known = self._found.get(key, replace(found, values=0, rows=0, features={}))
        counts = Counter(known.features) + Counter(found.features)
        self._found[key] = replace(
            known,
            said=found.said,
            parameters=found.parameters,
            values=known.values + found.values,
            rows=known.rows + found.rows,
            features=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
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
    variant = proof.variants[owner]
    return variant.cause, _events_for(case.world, name, row, variant.events)


def _merged_by(variant: Variant) -> str:
    """Return what findings have in common that are told as one: searched events of one view are, all else is not."""
    return str(variant.parameters.get("view")) if variant.is_searched else variant.said


def _finding(case: Case, proof: Proof, numbers: Sequence[int], counted: Counted | None) -> Finding | None:
    """Return what some assumptions explain together; without counts nothing is said of late refreshes."""
    first = proof.variants[numbers[0]]
    owned = {name: np.isin(owner, numbers) & case.differs[name] for name, owner in proof.owner.items()}
    if not any(bool(flags.any()) for flags in owned.values()):
        return None
    events: dict[str, Ints] = {}
    for number in numbers:
        for alias, rows in proof.variants[number].events.items():
            events[alias] = np.union1d(events.get(alias, np.zeros(0, dtype=np.int64)), rows)
    evidence = list(dict.fromkeys(first.evidence))
    fix = first.fix
    if counted is not None and "missed_refresh" in first.cause.split(" + "):
        told = lag_evidence(case, owned, counted)
        evidence += told.evidence
        fix = fix.replace(ON_TIME, told.fix or ON_TIME)
    # What was searched step by step names in its last step all that was found.
    said = proof.variants[numbers[-1]].said
    return _counted(case, owned, cause=first.cause, said=said, evidence=evidence, fix=fix, events=events, variant=first)


def _unexplained(case: Case, proof: Proof) -> Finding | None:
    owned = {name: (owner < 0) & case.differs[name] for name, owner in proof.owner.items()}
    if not any(bool(flags.any()) for flags in owned.values()):
        return None
    names = [name for name, flags in owned.items() if bool(flags.any())]
    aliases = {view_of(column) for name in names for column in operands(case.world.plan, name)}
    rewritten = changes_of(case, aliases)
    return _counted(
        case,
        owned,
        cause=UNEXPLAINED,
        said=_UNEXPLAINED_SAID,
        evidence=list(dict.fromkeys(line for change in rewritten for line in _rewritten_said(change))),
        fix=_UNEXPLAINED_FIX,
        events={},
        variant=None,
    )


def _rewritten_said(change: SourceChange) -> Iterator[str]:
    """Tell that values cannot be computed again if they came from rows that are no longer there."""
    yield f"source '{change.source}' no longer holds all that was read; what was served from that cannot be computed"
    yield from change.said


def _counted(
    case: Case,
    owned: dict[str, npt.NDArray[np.bool_]],
    *,
    cause: str,
    said: str,
    evidence: list[str],
    fix: str,
    events: dict[str, Ints],
    variant: Variant | None,
) -> Finding:
    counts = {name: int(flags.sum()) for name, flags in owned.items() if bool(flags.any())}
    rows = np.any(list(owned.values()), axis=0)
    return Finding(
        cause=cause,
        said=said,
        values=sum(counts.values()),
        share=0.0,
        rows=int(rows.sum()),
        features=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        is_proven=variant is not None and variant.is_proven,
        evidence=tuple(evidence),
        fix=fix,
        examples=tuple(_examples(case, owned, counts, events)),
        parameters={} if variant is None else {name: str(value) for name, value in variant.parameters.items()},
        fingerprint=case.world.plan.fingerprint,
    )


def _examples(
    case: Case, owned: dict[str, npt.NDArray[np.bool_]], counts: dict[str, int], events: dict[str, Ints]
) -> Iterator[Example]:
    """Yield a first value of each of the features concerned most, then more of the first of them."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    places = [(name, place) for place in range(_EXAMPLES) for name in names]
    shown = 0
    for name, place in places:
        rows = np.flatnonzero(owned[name])
        if place < len(rows) and shown < _EXAMPLES:
            yield _example(case, name, int(rows[place]), events)
            shown += 1


def _example(case: Case, name: str, row: int, events: dict[str, Ints]) -> Example:
    world = case.world
    reference, served = case.reference[name], case.served[name]
    return Example(
        feature=name,
        keys={key.name: _text(world.log.column(key_column(key.name))[row].as_py()) for key in world.plan.join_keys},
        as_of=format_instant(int(world.as_of[row])),
        reference=_text(reference.values[row].as_py()),
        current=_text(served.values[row].as_py()),
        reference_status=Status(int(reference.statuses[row])).name,
        current_status=status_name(int(served.statuses[row])),
        events=_events_for(world, name, row, events),
    )


def _events_for(world: World, name: str, row: int, events: Mapping[str, Ints]) -> tuple[Event, ...]:
    """Return those of some events that an output of a row is made of, oldest first."""
    aliases = {view_of(column) for column in operands(world.plan, name)}
    return tuple(
        event
        for alias in sorted(aliases & events.keys())
        for event in _events_of(world.views[alias], row, events[alias])
    )[:_EVENTS]


def _events_of(view: ViewWorld, row: int, chosen: Ints) -> Iterator[Event]:
    """Yield those of some events that are of a row's entity, oldest first."""
    index, codes = view.events.index
    code = index.codes([key.slice(row, 1) for key in view.keys])[0]
    own = view.events.rows_of(chosen)
    own = own[codes[own] == code]
    source = view.view.source
    table = view.events.table.take(pa.array(own)).sort_by(source.event_time)
    learned = source.ingest_time or source.event_time
    for event in table.to_pylist():
        yield Event(
            event_time=_text(event[source.event_time]) or "",
            ingest_time=_text(event[learned]) or "",
            values={name: _text(value) for name, value in event.items() if name not in (source.event_time, learned)},
        )


def _text(value: object) -> str | None:
    if value is None:
        return None
    text = format_instant(instant_us(value)) if isinstance(value, datetime) else str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
