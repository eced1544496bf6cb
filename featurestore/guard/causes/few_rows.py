"""What fits a few rows: named, but as not proven, because so few values may come out by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featurestore.guard.causes.catalogue import HYPOTHESES
from featurestore.guard.causes.explanation import Explanation
from featurestore.guard.causes.model import Case
from featurestore.guard.causes.scoring import Scorer
from featurestore.guard.causes.single_views import assumptions_with_single_views
from featurestore.guard.causes.trials import Trial, try_on
from featurestore.guard.causes.weights import WEIGHTS

_FEW_ROWS = 10
"""Rows that differ in a group of outputs up to which what fits them is named without a proof."""

_EVIDENCE = "it gives exactly what was served, but so few values may come out by chance"


def explain_few_rows(case: Case, explanation: Explanation, scorer: Scorer) -> None:
    """Name as not proven what fits all that is left of a group of which few rows differ.

    Args:
        case: The case as it was before anything was explained.
        explanation: Its explanation, to be completed.
        scorer: Rates assumptions.
    """
    for outputs in scorer.groups:
        rows = np.flatnonzero(np.any([explanation.case.differs[name] for name in outputs], axis=0))
        differing = int(np.any([case.differs[name] for name in outputs], axis=0).sum())
        if not 0 < len(rows) <= differing <= _FEW_ROWS:
            continue
        sample = explanation.with_controls(rows)
        for name in sample.differs.keys() - set(outputs):
            sample.differs[name][:] = False
        rated = [(_fit(trial, outputs, sample, scorer), trial) for trial in _complete_trials(outputs, sample)]
        fit, best = max(rated, key=lambda pair: pair[0], default=(0.0, None))
        if best is not None and fit > 0:
            evidence = (*best.assumption.evidence, _EVIDENCE)
            unproven = replace(best, assumption=replace(best.assumption, is_proven=False, evidence=evidence))
            explanation.confirm([(unproven, outputs)])


def _complete_trials(outputs: Sequence[str], sample: Case) -> list[Trial]:
    """Return the trials of all assumptions that explain every value of some outputs."""
    trials = [
        try_on(hypothesis, assumption, sample)
        for hypothesis in HYPOTHESES
        for assumption in assumptions_with_single_views(hypothesis, sample)
    ]
    return [trial for trial in trials if trial is not None and trial.explains_all(outputs, sample)]


def _fit(trial: Trial, outputs: Sequence[str], sample: Case, scorer: Scorer) -> float:
    """Return how well an assumption fits if naming it is free; 0 or less if a guess would fit as well."""
    bits = np.concatenate([sample.bits[name][sample.differs[name]] for name in outputs])
    if bits.sum() < WEIGHTS.fitting_values:
        return 0.0
    free = replace(trial, assumption=replace(trial.assumption, naming_bits=0.0, events_per_row=0.0))
    gain = scorer.gain(free, outputs, sample, sample.differs)
    if gain <= 0 and bits.min() >= WEIGHTS.fitting_value and gain > -math.inf:
        return 1.0 / (1.0 - gain)
    return gain
