"""What audits make of every fault, planted everywhere and in a fifth of the rows; measured once for several tests."""

from __future__ import annotations

from collections import Counter
from functools import cache

from featurestore.guard.causes.catalogue import CAUSES, HYPOTHESES, UNEXPLAINED
from tests.skew.faults import FAULTS, Fault
from tests.skew.planting import Audited, audit_planted, everywhere, in_some

SIZES = (1.0, 0.2)
"""Shares of the rows in which a fault is planted."""


@cache
def measured(name: str, share: float) -> Audited:
    """Plant one fault in a share of the rows and audit it."""
    fault = fault_of(name)
    return audit_planted(fault.truth(), everywhere(fault) if share == 1.0 else in_some([fault], share))


def fault_of(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


def confusion() -> dict[str, Counter[str]]:
    """Count values by the cause planted and the cause named; of two causes named together the planted one counts."""
    found: dict[str, Counter[str]] = {cause: Counter() for cause in CAUSES}
    for fault in FAULTS:
        for share in SIZES:
            for (name, cause), count in measured(fault.name, share).named.items():
                if name == fault.name:
                    found[fault.cause][named(fault, cause)] += count
    return found


def named(fault: Fault, cause: str) -> str:
    """Return the cause that counts where two were named together."""
    parts = cause.split(" + ")
    return fault.cause if fault.cause in parts else parts[0]


def page() -> str:
    """Write the page of causes."""
    meanings = {hypothesis.name: hypothesis.meaning for hypothesis in reversed(HYPOTHESES)}
    meanings[UNEXPLAINED] = "no assumption reproduces the value"
    lines = [_HEAD, "| cause | what it says |", "|---|---|"]
    lines += [f"| `{cause}` | {meanings[cause]} |" for cause in CAUSES]
    lines += [_MATRIX, *_matrix(confusion()), _FAULTS, *_faults()]
    return "\n".join(lines) + "\n"


def _matrix(counts: dict[str, Counter[str]]) -> list[str]:
    numbers = {cause: place for place, cause in enumerate(CAUSES, start=1)}
    rows = ["| planted | values | " + " | ".join(str(numbers[cause]) for cause in CAUSES) + " |"]
    rows.append("|---|--:|" + "--:|" * len(CAUSES))
    for cause in CAUSES:
        total = sum(counts[cause].values())
        cells = [f"{100 * counts[cause][other] / total:.1f}" if counts[cause][other] else "" for other in CAUSES]
        rows.append(f"| {numbers[cause]} `{cause}` | {total} | " + " | ".join(cells) + " |")
    return rows


def _faults() -> list[str]:
    rows = ["| fault | cause | rows with it | values that differ | named right |", "|---|---|--:|--:|--:|"]
    for fault in FAULTS:
        for share in SIZES:
            found = measured(fault.name, share)
            values = sum(count for (name, _), count in found.named.items() if name == fault.name)
            rows.append(f"| {fault.name} | `{fault.cause}` | {share:.0%} | {values} | {found.share(fault):.1%} |")
    return rows


_HEAD = """# Causes

Written by `python -m tests.skew.write_confusion_matrix`.

An audit recomputes every served value offline, at the instant it was asked about, and compares it to the bit. Where
they differ, it asks *under which assumption would this value have come out?* Each assumption is a change of the
world the value came from: its definitions, its events, the instant asked about, how far its state was complete, the
request, or what was done to the value afterwards. The changed world is evaluated by the kernels that build training
sets, on just the events of the entities concerned. Only an assumption that gives the served value exactly, status
included, explains it.

Often several do: a count that is one too small may have lost an event, or may have a window that ends early. An
assumption is judged as a message would be. A value is worth as many bits to its explanation as it is rare among the
values of its feature: a boolean about one, a small count a few, a sum of floats ten at most. Naming an assumption costs
bits, saying row by row what was changed and naming single events costs more, and if it would have spoiled values that
are equal, or leaves others unexplained, it must say where it holds. What is left is its gain; the largest gain is
named. An assumption that agrees no more often than by chance gains nothing. Of equal gains the first in this table is
named. Where no single assumption gives a value, two together are tried.

A constant factor or offset of whole numbers must hold for nearly all of them. Which events are missing, or count twice,
is read from the differences of counts, sums and means; without any of those the newest events are tried one by one.
Where only a few rows differ, what fits them is named, and marked *not proven* if it is too little to be no chance.
"""

_MATRIX = """
## Confusion matrix

Faults are planted in answers that were really served, everywhere and in a fifth of the rows, and audited. Rows are the
causes planted, columns the causes named (in the same order), in percent of the values that differ. Equal values are
never given a cause. What is named otherwise is mostly where a few small counts come out under another assumption too.
A count that is capped has no cause to be named, and says so little that anything might explain it.
"""

_FAULTS = """
## Faults

Rows that came after the request, of a source that does not say when they became known, are called late if materialize
runs of the audited store took down that they were not there yet: *rows came after they were read*. Where none did, as
for *rows came after the request*, they look like rows that were lost until a later request shows them. Where few rows
show them, most are called lost: a column for the ingest time tells.
Where nothing but a count is served, single rows in which it is one too small do not tell either. Nor do single
booleans, of which every wrong one is the opposite of the right one, or dates of a few days.
"""
