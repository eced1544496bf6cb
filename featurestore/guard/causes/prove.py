"""Proving causes: every hypothesis is tried on a sample, the best explanations on every value.

``scoring`` says which explanation is best. Where no single assumption explains a value, two together are tried
(``pairs``). Where so few rows differ that they could not pay for naming anything, what fits them exactly is named as
not proven (``few_rows``).

What can gain no more than an assumption that explains everything is not tried: the catalogue begins with what the log
or the registry says, so when a state is old the audit says so without asking about every window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from featurestore.guard.causes.catalogue import HYPOTHESES
from featurestore.guard.causes.explanation import SEARCHED_SHARE, Explanation, Proof
from featurestore.guard.causes.few_rows import explain_few_rows
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.pairs import explain_by_pairs, search_on_top
from featurestore.guard.causes.scoring import Scorer
from featurestore.guard.causes.single_views import about_one_view, assumptions_with_single_views, mixed_outputs
from featurestore.guard.causes.trials import Trial, count_of, explained_by, spread_rows, try_on
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.plan.names import view_of

_WORTH_SHARE = 0.01
"""Share of what is left that a round must explain to be worth another one."""

_STRANGE_SHARE = 0.2
"""Share of the values that, if what explains other rows leaves it, shows that there must be more causes."""

_THOROUGH_CASES = 3
"""Cases on which everything is tried before what explained nothing is given up."""

_PROBED_PER_OUTPUT = 3
_PROBED_ROWS = 24
"""Rows on which an assumption is tried before it is tried on a whole sample."""

_MOST_ROUNDS = 40
"""Rounds in which everything is tried; searches for single events are not counted."""


@dataclass(frozen=True)
class PriorKnowledge:
    """Results from rows of the same log that were explained before.

    Attributes:
        assumptions: Assumptions that explain any of them.
        cases: Count of cases on which everything was tried.
        values: Count of values on which everything was tried.
        left: Count of those values that nothing explained.
    """

    assumptions: tuple[Assumption, ...] = ()
    cases: int = 0
    values: int = 0
    left: int = 0

    def after(self, case: Case, proof: Proof) -> PriorKnowledge:
        """Return what is known once more rows are explained."""
        if not proof.is_thorough:
            return replace(self, assumptions=proof.assumptions)
        left = count_of(proof.unexplained(case).values())
        values = self.values + count_of(case.differs.values())
        return PriorKnowledge(proof.assumptions, self.cases + 1, values, self.left + left)

    def for_other_entities(self) -> PriorKnowledge:
        """Return the same with one assumption for all single events of a view, the last: it includes the others."""
        last = {
            (known.cause, str(known.parameters.get("view")) if known.is_searched else number): known
            for number, known in enumerate(self.assumptions)
        }
        return replace(self, assumptions=tuple(last.values()))

    @property
    def is_enough(self) -> bool:
        """Whether everything was tried so often that what explained nothing is not worth another trial."""
        return self.cases >= _THOROUGH_CASES

    @property
    def strange_share(self) -> float:
        """Share of the values that must be left for everything to be tried again."""
        return _STRANGE_SHARE + (self.left / self.values if self.is_enough and self.values else 0.0)


def prove(
    case: Case,
    *,
    clean: Mapping[str, int],
    known: PriorKnowledge | None = None,
    is_last: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Name the assumptions that reproduce what was served.

    Args:
        case: The rows that differ, and some that do not.
        clean: Per output the count of rows that do not differ, of which the case holds a sample.
        known: Results from other rows of the same log: the assumptions that explain them are tried first.
        is_last: Whether, for values that nothing explains, an assumption is named that merely fits.
        progress: Receives the number of values explained and that of all values to explain.

    Returns:
        The proof, whose assumptions begin with those known. Values that nothing reproduces have no owner.
    """
    known = known or PriorKnowledge()
    explanation = Explanation(case, known.assumptions, progress)
    scorer = Scorer(explanation.case, clean)
    is_thorough = _explain_by_rounds(explanation, scorer, known)
    search_on_top(explanation, scorer)
    if is_thorough and not known.is_enough and explanation.left:
        explain_by_pairs(explanation, scorer)
    if is_last and explanation.left:
        explain_few_rows(case, explanation, scorer)
    return explanation.proof(is_thorough=is_thorough)


def _explain_by_rounds(explanation: Explanation, scorer: Scorer, known: PriorKnowledge) -> bool:
    """Try hypotheses on one sample after the other until a round explains too little; return whether all were tried."""
    explanation.apply_known()
    hypotheses = _to_begin_with(explanation, known)
    is_thorough = hypotheses is HYPOTHESES
    rounds = 0
    while rounds < _MOST_ROUNDS and (left := explanation.left):
        is_search = all(hypothesis.searches_events for hypothesis in hypotheses)
        rounds += not is_search
        sample = explanation.sample()
        explained, searches = _explain_round(explanation, scorer, hypotheses, sample)
        is_strange = explanation.left > known.strange_share * explanation.value_count
        # A search finds the events of the entities in its sample, however many others there are. So it goes on with the
        # next rows, and the other hypotheses are tried again only when it ends.
        if searches and explained > SEARCHED_SHARE * count_of(sample.differs.values()):
            hypotheses = searches
        elif explained > _WORTH_SHARE * left or (hypotheses is not HYPOTHESES and (is_thorough or is_strange)):
            hypotheses, is_thorough = HYPOTHESES, True
        else:
            break
    return is_thorough


def _to_begin_with(explanation: Explanation, known: PriorKnowledge) -> Sequence[Hypothesis]:
    """Return the hypotheses of the first round: those that explain other rows, or all if no other rows were tried."""
    if known.cases == 0:
        return HYPOTHESES
    names = {name for assumption in explanation.assumptions for name in assumption.cause}
    return tuple(hypothesis for hypothesis in HYPOTHESES if hypothesis.name in names)


def _explain_round(
    explanation: Explanation, scorer: Scorer, hypotheses: Sequence[Hypothesis], sample: Case
) -> tuple[int, Sequence[Hypothesis]]:
    """Try hypotheses on a sample, and the best assumptions on all rows.

    Returns:
        The count of values explained, and the searches for single events that explained any.
    """
    sample.accepted = tuple(explanation.assumptions)
    trials = list(_trials(hypotheses, sample, scorer))
    trials += _trials_of_one_view(sample, scorer.choose(sample, trials))
    chosen = scorer.choose(sample, trials)
    explained = explanation.confirm(chosen)
    names = {trial.hypothesis.name for trial, _ in chosen if trial.hypothesis.searches_events}
    return explained, tuple(
        hypothesis for hypothesis in HYPOTHESES if hypothesis.name in names and hypothesis.searches_events
    )


def _trials(hypotheses: Sequence[Hypothesis], sample: Case, scorer: Scorer) -> Iterator[Trial]:
    """Try assumptions in the order of the catalogue, unless one that explains everything gains as much."""
    bar = _Bar(sample, scorer.groups)
    for hypothesis in hypotheses:
        if not bar.shares_needed(hypothesis.row_bits, 0.0):
            continue
        for assumption in assumptions_with_single_views(hypothesis, sample):
            if not bar.may_pass(assumption, hypothesis.row_bits + assumption.row_bits):
                continue
            trial = try_on(hypothesis, assumption, sample)
            if trial is None:
                continue
            yield trial
            for outputs in scorer.groups:
                if trial.explains_all(outputs, sample):
                    bar.raise_to(outputs, scorer.gain(trial, outputs, sample, sample.differs))


def _trials_of_one_view(sample: Case, chosen: Sequence[tuple[Trial, tuple[str, ...]]]) -> list[Trial]:
    """Try the assumptions that explain a view on the features computed on demand from it and others, for it alone."""
    outputs = {output.name: output for output in sample.world.plan.outputs}
    trials = []
    for trial, group in chosen:
        output = outputs[group[0]]
        alias = view_of(output.column)
        mixed = mixed_outputs(sample, alias) if output.kind == "view" else frozenset()
        if mixed and trial.assumption.outputs is None:
            hypothesis = replace(trial.hypothesis, explains_absence=False)
            trials.append(try_on(hypothesis, about_one_view(alias, trial.assumption, mixed), sample))
    return [trial for trial in trials if trial is not None]


class _Bar:
    """What an assumption must gain in some group of outputs to be worth a trial on a whole sample.

    Where another one explains everything already, it would have to explain nearly everything too. Then it is tried on
    a few rows first, and dropped if it explains less than half of what it would have to.
    """

    def __init__(self, sample: Case, groups: Sequence[tuple[str, ...]]) -> None:
        self._best_gain = dict.fromkeys(groups, -math.inf)
        self._sample = sample
        self._worth = {
            outputs: sum(float(sample.bits[name][sample.differs[name]].sum()) for name in outputs) for outputs in groups
        }

    def raise_to(self, outputs: tuple[str, ...], gain: float) -> None:
        """Note the gain of an assumption that explains everything in a group."""
        self._best_gain[outputs] = max(self._best_gain[outputs], gain)

    def shares_needed(self, row_bits: float, naming_bits: float) -> dict[tuple[str, ...], float]:
        """Return the groups in which such an assumption may gain most, with the share of values it must explain."""
        most = {outputs: worth * (1 - row_bits / WEIGHTS.value) for outputs, worth in self._worth.items()}
        return {
            outputs: max(0.0, (best + naming_bits) / most[outputs])
            for outputs, best in self._best_gain.items()
            if most[outputs] and most[outputs] - naming_bits > best
        }

    def may_pass(self, assumption: Assumption, row_bits: float) -> bool:
        """Return whether an assumption is worth a trial."""
        shares = self.shares_needed(row_bits, assumption.naming_bits)
        if not shares or min(shares.values()) == 0.0:
            return bool(shares)
        names = [name for group in shares for name in group if assumption.outputs is None or name in assumption.outputs]
        explained = explained_by(assumption, self._few, names)
        return any(
            count_of(explained[name] for name in group if name in explained)
            >= share / 2 * count_of(self._few.differs[name] for name in group)
            for group, share in shares.items()
        )

    @cached_property
    def _few(self) -> Case:
        rows = [spread_rows(np.flatnonzero(flags), _PROBED_PER_OUTPUT) for flags in self._sample.differs.values()]
        return self._sample.take(spread_rows(np.unique(np.concatenate(rows)), _PROBED_ROWS))
