"""Two assumptions together: values that none explains alone may have been changed twice on their way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from featurestore.core.errors import FeatureStoreError
from featurestore.guard.causes.catalogue import HYPOTHESES
from featurestore.guard.causes.explanation import SEARCHED_SHARE, Explanation
from featurestore.guard.causes.model import Assumption, Case, Hypothesis, cause_text
from featurestore.guard.causes.scoring import Scorer
from featurestore.guard.causes.trials import count_of, explained_by, same_as_served, spread_rows, try_on
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import World, answer

_MOST_PARTNERS = 3
_MOST_PAIRS = 2_000
_FEWEST_PAIRS = 200
_EVENTS_FOR_PAIRS = 10_000_000
"""Events that all pairs together may be evaluated on: where entities have many, fewer pairs are tried."""

_PROBED_ROWS = 24
"""Rows on which a pair is tried before it is tried on a whole sample."""

_ALTERING = tuple(hypothesis for hypothesis in HYPOTHESES if hypothesis.alters_values)

_NAMED_ALREADY = Hypothesis("", 0, "", lambda _: ())
"""Stands for the hypothesis of an assumption that was named before: saying it row by row is paid for."""


def search_on_top(explanation: Explanation, scorer: Scorer) -> None:
    """Search single events for values that were altered as well, in a way that explains other values already."""
    altering = {(hypothesis.name,) for hypothesis in _ALTERING}
    for partner in [known for known in explanation.most_frequent(_MOST_PARTNERS) if known.cause in altering]:
        searched: tuple[Assumption, ...] = ()
        is_worth = True
        while is_worth and explanation.left:
            sample = explanation.sample()
            count, more = _search_once(explanation, scorer, sample, partner, searched)
            is_worth = count > SEARCHED_SHARE * count_of(sample.differs.values())
            searched += more


def _search_once(
    explanation: Explanation, scorer: Scorer, sample: Case, partner: Assumption, known: tuple[Assumption, ...]
) -> tuple[int, tuple[Assumption, ...]]:
    """Search single events on top of those known.

    Returns:
        The count of values explained, and the assumptions about events that explain them together with the partner.
    """
    world = partner.apply(sample.world)
    if world is None:
        return 0, ()
    # Rows that are whole entities would not have been altered yet: the search looks at the sample alone.
    altered = replace(sample, world=world, whole=None, accepted=known)
    searched, trials = {}, []
    for hypothesis in HYPOTHESES:
        for assumption in hypothesis.assumptions(altered) if hypothesis.searches_events else ():
            if assumption.is_searched:
                both = replace(_both(hypothesis, assumption, partner), outputs=None, least_share=0.0)
                searched[id(both)] = assumption
                trials.append(try_on(hypothesis, both, sample))
    chosen = scorer.choose(sample, [trial for trial in trials if trial is not None])
    return explanation.confirm(chosen), tuple(searched[id(trial.assumption)] for trial, _ in chosen)


def explain_by_pairs(explanation: Explanation, scorer: Scorer) -> None:
    """Explain by two assumptions what none explains alone, if enough is left that they could be named."""
    if all(scorer.share_of_left(name, WEIGHTS.pair_share) > 1.0 for name in explanation.case.outputs):
        return
    sample = explanation.sample_for_pairs()
    few = sample.take(spread_rows(np.flatnonzero(sample.suspects()), _PROBED_ROWS))
    pairs = _pairs(sample, explanation.most_frequent(_MOST_PARTNERS))
    trials = [
        try_on(hypothesis, pair, sample)
        for hypothesis, pair in islice(pairs, _pair_count(sample.world))
        if _may_be_named(pair, few, scorer)
    ]
    explanation.confirm(scorer.choose(sample, [trial for trial in trials if trial is not None]))


def _pair_count(world: World) -> int:
    """Return how many pairs of assumptions are tried on a world: one hot entity must not make an audit slow."""
    event_count = sum(int(view.events.table.num_rows) for view in world.views.values())
    return max(_FEWEST_PAIRS, min(_MOST_PAIRS, _EVENTS_FOR_PAIRS // max(1, event_count)))


def _pairs(sample: Case, partners: list[Assumption]) -> Iterator[tuple[Hypothesis, Assumption]]:
    """Propose known assumptions together with any other, and any with what may be done to values afterwards.

    Yields:
        Pairs, each with the hypothesis whose costs it has.
    """
    single = [
        (hypothesis, assumption)
        for hypothesis in HYPOTHESES
        if not hypothesis.alters_values and not hypothesis.searches_events
        for assumption in hypothesis.assumptions(sample)
    ]
    for partner in partners:
        for hypothesis, assumption in single:
            if assumption.cause != partner.cause:
                yield hypothesis, _both(hypothesis, assumption, partner)
    for hypothesis, assumption in [*single, *((_NAMED_ALREADY, partner) for partner in partners)]:
        for alteration in _alterations(assumption, sample):
            yield hypothesis, _both(hypothesis, assumption, alteration)


def _alterations(assumption: Assumption, sample: Case) -> Iterator[Assumption]:
    """Yield what may have been done to values on top of an assumption: only what explains any."""
    part = sample.take(np.flatnonzero(sample.suspects()))
    changed = _under(assumption, part)
    if changed is None:
        return
    for hypothesis in _ALTERING:
        for alteration in hypothesis.assumptions(changed):
            if alteration.cause != assumption.cause and _explains_any(alteration, changed, part):
                yield alteration


def _explains_any(alteration: Assumption, changed: Case, part: Case) -> bool:
    """Return whether altered values of a changed world are what was served in any row."""
    world = alteration.apply(changed.world)
    if world is None or len(world.transforms) == len(changed.world.transforms):
        return False
    outputs = changed.outputs if alteration.outputs is None else alteration.outputs & set(changed.outputs)
    return any(
        bool((same_as_served(part, name, altered) & part.differs[name]).any())
        for name in outputs
        for altered in [world.transforms[-1](world, name, changed.reference[name])]
    )


def _under(assumption: Assumption, case: Case) -> Case | None:
    """Return a case as it is under an assumption, for what may be done to values then; ``None`` if there is none."""
    world = assumption.apply(case.world)
    if world is None:
        return None
    try:
        answers = answer(world, case.outputs, threads=case.facts.threads)
    except FeatureStoreError:
        return None
    if set(answers) != set(case.outputs):
        return None
    return replace(case, reference={**case.reference, **answers}, memo={})


def _may_be_named(pair: Assumption, few: Case, scorer: Scorer) -> bool:
    """Return whether a pair explains, of a few rows, half of what it must explain of all to be named."""
    explained = explained_by(pair, few, few.outputs)
    return any(
        int(flags.sum()) >= scorer.share_of_left(name, pair.least_share) / 2 * int(few.differs[name].sum())
        for name, flags in explained.items()
        if bool(flags.any())
    )


def _both(hypothesis: Hypothesis, first: Assumption, second: Assumption) -> Assumption:
    """Return the assumption that both hold, the second on top of the first.

    Args:
        hypothesis: The hypothesis of the first.
        first: What is assumed of the world.
        second: What is assumed on top of it.
    """

    def apply(world: World) -> World | None:
        changed = first.apply(world)
        return None if changed is None else second.apply(changed)

    restrictions = [outputs for outputs in (first.outputs, second.outputs) if outputs is not None]
    may_be_local = hypothesis.most_where_bits < math.inf
    return Assumption(
        statement=f"{first.statement}; and {second.statement}",
        apply=apply,
        parameters={
            cause_text(first.cause): dict(first.parameters),
            cause_text(second.cause): dict(second.parameters),
        },
        cause=first.cause + second.cause,
        outputs=frozenset.intersection(*restrictions) if restrictions else None,
        fix=" ".join(fix for fix in (first.fix, second.fix) if fix),
        events={**first.events, **second.events},
        evidence=(*first.evidence, *second.evidence),
        naming_bits=first.naming_bits + second.naming_bits + WEIGHTS.naming_pair,
        row_bits=first.row_bits + second.row_bits,
        least_share=max(
            first.least_share, second.least_share, WEIGHTS.local_pair_share if may_be_local else WEIGHTS.pair_share
        ),
        least_held=max(first.least_held, second.least_held),
        events_per_row=first.events_per_row + second.events_per_row,
    )
