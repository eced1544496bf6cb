"""Proving causes: every hypothesis is tried on a sample, the best explanations on every value.

An explanation is judged as a message would be: naming an assumption costs bits, saying row by row what was changed
costs more, and an assumption that would have spoiled values that are equal, or that leaves others unexplained, must say
where it holds and where not. What is left of the bits that unexplained values would cost is its gain. Those bits are
what the values are worth (``surprise``): an assumption that agrees no more often than by chance pays for saying where
it does as much as it saves. So an assumption that holds everywhere is named before a chance agreement in a few rows; of
equal gains the first of the catalogue is taken.

Where so few rows differ that they could not pay for naming anything, what fits them exactly is named as not proven.

What can gain no more than an assumption that explains everything is not tried: the catalogue begins with what the log
or the registry says, so when a state is old the audit says so without asking about every window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from featurestore.core.columns import Flags, Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.guard.causes.catalogue import HYPOTHESES, VALUES
from featurestore.guard.causes.choosing import count_of, light_rows, spread_rows
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.causes.surprise import MOST_BITS, surprises
from featurestore.guard.causes.trials import (
    Tried,
    covered_by,
    covers_all,
    same_as_served,
    try_on,
)
from featurestore.guard.world.events import loose
from featurestore.guard.world.world import World, answer, operands
from featurestore.plan.names import view_of

_PAIR_BITS = 7.0
_PAIR_SHARE = 0.05
_LOCAL_SHARE = 0.3
"""Share of a feature's differing values that two assumptions together must explain, so that they are not chance."""

_SEARCHED_BITS = 5.0
_EVENT_BITS = 3.0
"""What it costs to name one of the events of a row."""

_KNOWN_BITS = 4.0
"""What an assumption saves that explains another view already."""

_SAMPLED_PER_OUTPUT = 120
_SAMPLED_ROWS = 800
_SAMPLED_CONTROLS = 400
_SAMPLED_FOR_PAIRS = 60
_SAMPLED_EVENTS = 100_000
_WORTH_SHARE = 0.01
"""Share of what is left that a round must explain to be worth another one."""

_SEARCHED_SHARE = 0.1
"""Share of a sample that a search for single events must explain to be worth another one."""

_STRANGE_SHARE = 0.2
_THOROUGH_CASES = 3

_PROBED_PER_OUTPUT = 3
_PROBED_ROWS = 24
_MOST_ROUNDS = 40
_MOST_PARTNERS = 3
_MOST_PAIRS = 2_000
_FEWEST_PAIRS = 200
_EVENTS_FOR_PAIRS = 10_000_000
"""Events that all pairs together may be evaluated on: where entities have many, fewer pairs are tried."""

_FEW_ROWS = 10
"""Rows that differ in a group of outputs up to which what fits them is named without a proof."""

_TELLING_BITS = 5.0
"""What a value must be worth that fits by itself, wherever else the assumption would spoil others."""

_LEAST_BITS = 2.0
"""What the values must be worth together that fit."""

_FITS = "it gives exactly what was served, but so few values may come out by chance"

_ANY = Hypothesis("", "", lambda _: ())


@dataclass(frozen=True)
class Proof:
    """What explains the values of a case.

    Attributes:
        variants: The assumptions that explain any, those named first first.
        owner: Per output and row the assumption that explains the value; -1 for none.
        is_thorough: Whether everything was tried, not only what explains other rows.
    """

    variants: tuple[Variant, ...]
    owner: Mapping[str, Ints]
    is_thorough: bool = True


@dataclass(frozen=True)
class Known:
    """What is known from rows of the same log that were explained before.

    Attributes:
        variants: Assumptions that explain any of them.
        cases: How often everything was tried.
        values: Values that everything was tried on.
        left: Those of them that nothing explained.
    """

    variants: tuple[Variant, ...] = ()
    cases: int = 0
    values: int = 0
    left: int = 0

    def after(self, case: Case, proof: Proof) -> Known:
        """Return what is known once more rows are explained."""
        if not proof.is_thorough:
            return replace(self, variants=proof.variants)
        left = count_of(flags & (proof.owner[name] < 0) for name, flags in case.differs.items())
        values = self.values + count_of(case.differs.values())
        return Known(proof.variants, self.cases + 1, values, self.left + left)

    def for_other_entities(self) -> Known:
        """Return the same with one assumption for all single events of a view, the last: it says what others do."""
        last = {
            (variant.cause, str(variant.parameters.get("view")) if variant.is_searched else number): variant
            for number, variant in enumerate(self.variants)
        }
        return replace(self, variants=tuple(last.values()))

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
    known: Known | None = None,
    is_last: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Name the assumptions that reproduce what was served.

    Args:
        case: The rows that differ, and some that do not.
        clean: Per output the count of rows that do not differ, of which the case holds a sample.
        known: What is known from other rows of the same log: what explains them is tried first.
        is_last: Whether what nothing explains is named if it fits, though it be chance.
        progress: Is told how many values are explained, of how many.

    Returns:
        The proof, whose assumptions begin with those known. Values that nothing reproduces have no owner.
    """
    return _Prover(case, clean, known or Known(), progress).run(is_last=is_last)


class _Bar:
    """What an assumption must gain in some group of outputs to be worth a trial on a whole sample.

    Where another one explains everything already, it would have to explain nearly everything too. Then it is asked
    about a few rows first, and dropped if it explains less than half of what it would have to.
    """

    def __init__(self, sample: Case, groups: Sequence[tuple[str, ...]]) -> None:
        self._sure = dict.fromkeys(groups, -math.inf)
        self._sample = sample
        self._worth = {
            outputs: sum(float(sample.bits[name][sample.differs[name]].sum()) for name in outputs) for outputs in groups
        }

    def raise_to(self, outputs: tuple[str, ...], gain: float) -> None:
        """Note what an assumption gains that explains everything in a group."""
        self._sure[outputs] = max(self._sure[outputs], gain)

    def shares(self, row_bits: float, bits: float) -> dict[tuple[str, ...], float]:
        """Return the groups in which such an assumption may gain most, with the share of values it must explain."""
        most = {outputs: worth * (1 - row_bits / MOST_BITS) for outputs, worth in self._worth.items()}
        return {
            outputs: max(0.0, (sure + bits) / most[outputs])
            for outputs, sure in self._sure.items()
            if most[outputs] and most[outputs] - bits > sure
        }

    def may_pass(self, variant: Variant, row_bits: float) -> bool:
        """Tell whether an assumption is worth a trial."""
        shares = self.shares(row_bits, variant.bits)
        if not shares or min(shares.values()) == 0.0:
            return bool(shares)
        names = [name for outputs in shares for name in outputs if variant.outputs is None or name in variant.outputs]
        covered = covered_by(variant, self._few, names)
        return any(
            count_of(covered[name] for name in outputs if name in covered)
            >= share / 2 * count_of(self._few.differs[name] for name in outputs)
            for outputs, share in shares.items()
        )

    @cached_property
    def _few(self) -> Case:
        rows = [spread_rows(np.flatnonzero(flags), _PROBED_PER_OUTPUT) for flags in self._sample.differs.values()]
        return self._sample.take(spread_rows(np.unique(np.concatenate(rows)), _PROBED_ROWS))


class _Prover:
    def __init__(
        self,
        case: Case,
        clean: Mapping[str, int],
        known: Known,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        differs = {name: flags.copy() for name, flags in case.differs.items()}
        self._case = replace(case, differs=differs, bits=surprises(case))
        self._clean = clean
        self._progress = progress
        self._groups = _groups(case)
        self._known = known
        self._variants = list(known.variants)
        self._owner = {name: np.full(len(case.world), -1, dtype=np.int64) for name in case.differs}
        self._total = count_of(case.differs.values())
        self._differing = {
            outputs: int(np.any([case.differs[name] for name in outputs], axis=0).sum()) for outputs in self._groups
        }
        self._initial = {name: int(flags.sum()) for name, flags in case.differs.items()}

    def run(self, *, is_last: bool) -> Proof:
        chosen = self._begun()
        is_thorough = chosen is HYPOTHESES
        rounds = 0
        while rounds < _MOST_ROUNDS and (left := count_of(self._case.differs.values())):
            is_search = all(hypothesis.row_bits >= _SEARCHED_BITS for hypothesis in chosen)
            rounds += not is_search
            sample = self._sample(_SAMPLED_PER_OUTPUT, _SAMPLED_ROWS)
            gained, searched = self._round(chosen, sample)
            # What was searched row by row goes on with the next rows: a search finds what concerns the entities of its
            # sample, however many others there are. Everything else is tried again only if it ends.
            if searched and gained > _SEARCHED_SHARE * count_of(sample.differs.values()):
                chosen = searched
            elif gained > _WORTH_SHARE * left or (chosen is not HYPOTHESES and (is_thorough or self._is_strange())):
                chosen, is_thorough = HYPOTHESES, True
            else:
                break
        self._search_on_top()
        if is_thorough and not self._known.is_enough and count_of(self._case.differs.values()):
            self._pairs()
        if is_last and count_of(self._case.differs.values()):
            self._fit()
        return Proof(tuple(self._variants), self._owner, is_thorough)

    def _is_strange(self) -> bool:
        """Tell whether so much is left that what explains other rows cannot be all there is."""
        return count_of(self._case.differs.values()) > self._known.strange_share * self._total

    def _begun(self) -> Sequence[Hypothesis]:
        """Try what is known from other rows on all rows, and return the hypotheses to begin with."""
        for variant in tuple(self._variants):
            rows = np.flatnonzero(self._case.suspects())
            if len(rows) and variant.is_proven and not variant.is_searched:
                self._take(variant, rows, covered_by(variant, self._case.take(rows), self._case.outputs))
        if self._known.cases == 0:
            return HYPOTHESES
        named = {name for variant in self._variants for name in variant.cause.split(" + ")}
        return tuple(found for found in HYPOTHESES if found.name in named)

    def _round(self, hypotheses: Sequence[Hypothesis], sample: Case) -> tuple[int, Sequence[Hypothesis]]:
        """Try hypotheses on a sample and accept the best; return values gained, and hypotheses with more to find."""
        sample.accepted = tuple(self._variants)
        tried = self._tried(hypotheses, sample)
        tried += self._of_one_view(sample, self._accepted(sample, tried))
        accepted = self._accepted(sample, tried)
        gained = self._confirm(accepted)
        names = {result.variant.cause for result, _ in accepted if result.row_bits >= _SEARCHED_BITS}
        return gained, tuple(found for found in HYPOTHESES if found.name in names and found.row_bits >= _SEARCHED_BITS)

    def _sample(self, per_output: int, most: int) -> Case:
        """Take some rows to explain of every output, spread over the case, and some that hold."""
        chosen = [spread_rows(np.flatnonzero(self._case.differs[name]), per_output) for name in self._case.outputs]
        rows = spread_rows(np.unique(np.concatenate(chosen)), most)
        controls = spread_rows(np.flatnonzero(~self._case.suspects()), _SAMPLED_CONTROLS)
        chosen = [light_rows(self._case.world, found, _SAMPLED_EVENTS) for found in (rows, controls)]
        return self._case.take(np.concatenate(chosen)).narrowed()

    def _tried(self, hypotheses: Sequence[Hypothesis], sample: Case) -> list[Tried]:
        """Try assumptions in the order of the catalogue, unless one that explains everything gains as much."""
        tried: list[Tried] = []
        bar = _Bar(sample, self._groups)
        for hypothesis in hypotheses:
            if not bar.shares(hypothesis.row_bits, 0.0):
                continue
            for variant in _variants(hypothesis, sample):
                if not bar.may_pass(variant, hypothesis.row_bits + variant.row_bits):
                    continue
                found = try_on(hypothesis, variant, sample)
                if found is None:
                    continue
                tried.append(found)
                for outputs in self._groups:
                    if covers_all(found, outputs, sample):
                        bar.raise_to(outputs, self._gain(found, outputs, sample, sample.differs, ()))
        return tried

    def _of_one_view(self, sample: Case, accepted: Sequence[tuple[Tried, tuple[str, ...]]]) -> list[Tried]:
        """Try what explains a view on features computed on demand from it and others, as if it alone were concerned."""
        outputs = {output.name: output for output in sample.world.plan.outputs}
        found = []
        for result, group in accepted:
            alias = view_of(outputs[group[0]].column)
            mixed = _mixed(sample, alias) if outputs[group[0]].kind == "view" else frozenset()
            if mixed and result.variant.outputs is None:
                row_bits = result.row_bits - result.variant.row_bits
                hypothesis = replace(_ANY, row_bits=row_bits, most_bits=result.most_bits)
                one = try_on(hypothesis, _only_in(alias, result.variant, mixed), sample)
                found += [] if one is None else [one]
        return found

    def _accepted(self, sample: Case, tried: Sequence[Tried]) -> list[tuple[Tried, tuple[str, ...]]]:
        """Choose assumptions for each group of outputs, the one with the largest gain first."""
        accepted: list[tuple[Tried, tuple[str, ...]]] = []
        for outputs in self._groups:
            left = {name: sample.differs[name].copy() for name in outputs}
            while any(bool(flags.any()) for flags in left.values()):
                gains = [self._gain(result, outputs, sample, left, accepted) for result in tried]
                best = int(np.argmax(gains)) if gains else -1
                if best < 0 or gains[best] <= 0:
                    break
                accepted.append((tried[best], outputs))
                for name in outputs:
                    if name in tried[best].covered:
                        left[name] &= ~tried[best].covered[name]
        return accepted

    def _gain(
        self,
        result: Tried,
        outputs: Sequence[str],
        sample: Case,
        left: Mapping[str, Flags],
        accepted: Sequence[tuple[Tried, tuple[str, ...]]],
    ) -> float:
        """Return the bits an assumption saves."""
        saved = covered = spoiled = 0.0
        values = 0
        rows = np.zeros(len(sample.world), dtype=np.bool_)
        for name in outputs:
            if name not in result.covered:
                continue
            seen = int(sample.differs[name].sum())
            if seen:
                of_all = int(self._case.differs[name].sum()) / seen
                if int(result.covered[name].sum()) * of_all < result.variant.least_share * self._initial[name]:
                    continue
                own = result.covered[name] & left[name]
                rows |= own
                values += int(own.sum())
                saved += float(sample.bits[name][own].sum())
                covered += int(own.sum()) * of_all
                # What is said row by row says by itself where it holds.
                spoiled += 0.0 if result.row_bits else int((left[name] & ~own).sum()) * of_all
            # Single events concern entities that the case knows, not those of all other rows of the log.
            holding = int(self._case.holds[name].sum()) if result.variant.is_searched else self._clean[name]
            spoiled += result.broken[name] * holding
        if covered == 0:
            return -math.inf
        share = covered / (covered + spoiled)
        if share < result.variant.least_held:
            return -math.inf
        worth = saved / (values * MOST_BITS) if values else 0.0
        where_bits = min(_entropy(share) / share, result.most_bits * worth) if worth else 0.0
        is_known = any(known is result for known, _ in accepted)
        bits = result.variant.bits - (_KNOWN_BITS if is_known else 0.0)
        bits += int(rows.sum()) * result.variant.events_each * _EVENT_BITS
        return saved * (1 - result.row_bits / MOST_BITS) - values * where_bits - bits

    def _confirm(self, accepted: Sequence[tuple[Tried, tuple[str, ...]]]) -> int:
        """Try accepted assumptions on all rows that are not explained yet; return the count of values gained."""
        gained = 0
        for result, outputs in accepted:
            wanted = [name for name in outputs if name in result.covered and bool(self._case.differs[name].any())]
            if wanted:
                rows = self._concerned(result.variant, np.any([self._case.differs[name] for name in wanted], axis=0))
                part = self._case.take(rows)
                part = part.narrowed() if result.variant.is_searched else part
                gained += self._take(result.variant, rows, covered_by(result.variant, part, wanted))
        return gained

    def _concerned(self, variant: Variant, differs: Flags) -> Ints:
        """Return those of some rows that an assumption may explain: of single events those of their entities."""
        if not variant.is_searched:
            return np.flatnonzero(differs)
        is_concerned = np.zeros(len(differs), dtype=np.bool_)
        for alias, numbers in variant.events.items():
            view = self._case.world.views[alias]
            index, codes = view.events.loose_index
            has_any = np.zeros(len(index) + 1, dtype=np.bool_)
            has_any[codes[view.events.rows_of(numbers)]] = True
            has_any[-1] = False
            is_concerned |= has_any[index.codes([loose(key) for key in view.keys])]
        return np.flatnonzero(differs & is_concerned)

    def _take(self, variant: Variant, rows: Ints, covered: Mapping[str, Flags]) -> int:
        count = count_of(covered.values())
        if count == 0:
            return 0
        number = next((i for i, known in enumerate(self._variants) if known is variant), len(self._variants))
        if number == len(self._variants):
            self._variants.append(variant)
        for name, flags in covered.items():
            self._owner[name][rows[flags]] = number
            self._case.differs[name][rows[flags]] = False
        if self._progress is not None:
            self._progress(self._total - count_of(self._case.differs.values()), self._total)
        return count

    def _search_on_top(self) -> None:
        """Search single events for values that were changed, too, in a way that explains others already."""
        causes = {hypothesis.name for hypothesis in VALUES}
        for partner in [one for one in self._partners() if one.cause in causes]:
            found: tuple[Variant, ...] = ()
            is_worth = True
            while is_worth and count_of(self._case.differs.values()):
                sample = self._sample(_SAMPLED_PER_OUTPUT, _SAMPLED_ROWS)
                gained, more = self._searched_on_top(partner, found, sample)
                is_worth = gained > _SEARCHED_SHARE * count_of(sample.differs.values())
                found += more

    def _searched_on_top(
        self, partner: Variant, known: tuple[Variant, ...], sample: Case
    ) -> tuple[int, tuple[Variant, ...]]:
        """Search once, on top of what is known; return values gained, and which events make a difference."""
        world = partner.apply(sample.world)
        if world is None:
            return 0, ()
        # Rows that are whole entities would not have been changed yet: what is searched in is the sample alone.
        under = replace(sample, world=world, whole=None, accepted=known)
        searched, tried = {}, []
        for hypothesis in HYPOTHESES:
            for variant in hypothesis.variants(under) if hypothesis.row_bits >= _SEARCHED_BITS else ():
                if variant.is_searched:
                    both = replace(_together(hypothesis, variant, partner), outputs=None, least_share=0.0)
                    searched[id(both)] = variant
                    tried += [found for found in [try_on(hypothesis, both, sample)] if found is not None]
        accepted = self._accepted(sample, tried)
        return self._confirm(accepted), tuple(searched[id(result.variant)] for result, _ in accepted)

    def _partners(self) -> list[Variant]:
        """Return the assumptions that explain most."""
        ranked = sorted(range(len(self._variants)), key=lambda i: -self._owned(i))[:_MOST_PARTNERS]
        return [self._variants[number] for number in ranked]

    def _pairs(self) -> None:
        """Explain by two assumptions what none explains alone, if enough is left that they could be named."""
        if all(self._least(name, _PAIR_SHARE) > 1.0 for name in self._case.outputs):
            return
        sample = self._sample(_SAMPLED_FOR_PAIRS // 4, _SAMPLED_FOR_PAIRS)
        few = sample.take(spread_rows(np.flatnonzero(sample.suspects()), _PROBED_ROWS))
        tried = [
            found
            for hypothesis, variant in islice(self._proposed(sample), _pair_count(sample.world))
            if self._may_be_named(variant, few)
            for found in [try_on(hypothesis, variant, sample)]
            if found is not None
        ]
        self._confirm(self._accepted(sample, tried))

    def _fit(self) -> None:
        """Name as not proven what fits all that is left of a group of which few rows differ."""
        for outputs in self._groups:
            rows = np.flatnonzero(np.any([self._case.differs[name] for name in outputs], axis=0))
            if not 0 < len(rows) <= self._differing[outputs] <= _FEW_ROWS:
                continue
            controls = spread_rows(np.flatnonzero(~self._case.suspects()), _SAMPLED_CONTROLS)
            controls = light_rows(self._case.world, controls, _SAMPLED_EVENTS)
            sample = self._case.take(np.concatenate([rows, controls])).narrowed()
            for name in sample.differs.keys() - set(outputs):
                sample.differs[name][:] = False
            tried = [
                found
                for hypothesis in HYPOTHESES
                for variant in _variants(hypothesis, sample)
                for found in [try_on(hypothesis, variant, sample)]
                if found is not None and covers_all(found, outputs, sample)
            ]
            rated = [(self._fitting(result, outputs, sample), result) for result in tried]
            best, result = max(rated, key=lambda one: one[0], default=(0.0, None))
            if result is not None and best > 0:
                variant = replace(result.variant, is_proven=False, evidence=(*result.variant.evidence, _FITS))
                self._confirm([(replace(result, variant=variant), outputs)])

    def _fitting(self, result: Tried, outputs: Sequence[str], sample: Case) -> float:
        """Return how well an assumption fits, 0 if a guess would fit as well."""
        bits = np.concatenate([sample.bits[name][sample.differs[name]] for name in outputs])
        if bits.sum() < _LEAST_BITS:
            return 0.0
        free = replace(result, variant=replace(result.variant, bits=0.0, events_each=0.0))
        gain = self._gain(free, outputs, sample, sample.differs, ())
        if gain <= 0 and bits.min() >= _TELLING_BITS and gain > -math.inf:
            return 1.0 / (1.0 - gain)
        return gain

    def _least(self, name: str, share: float) -> float:
        """Return which share of an output's values that are left is a share of all that differ."""
        left = int(self._case.differs[name].sum())
        return share * self._initial[name] / left if left else math.inf

    def _may_be_named(self, variant: Variant, few: Case) -> bool:
        """Tell whether an assumption explains, of a few rows, half of what it must explain of all to be named."""
        covered = covered_by(variant, few, few.outputs)
        return any(
            int(flags.sum()) >= self._least(name, variant.least_share) / 2 * int(few.differs[name].sum())
            for name, flags in covered.items()
            if bool(flags.any())
        )

    def _proposed(self, sample: Case) -> Iterator[tuple[Hypothesis, Variant]]:
        """Propose known causes together with any other, and any with what may be done to values afterwards."""
        single = [
            (found, variant)
            for found in HYPOTHESES
            if found not in VALUES and found.row_bits < _SEARCHED_BITS
            for variant in found.variants(sample)
        ]
        partners = self._partners()
        for partner in partners:
            for hypothesis, variant in single:
                if variant.cause != partner.cause:
                    yield hypothesis, _together(hypothesis, variant, partner)
        for hypothesis, variant in [*single, *((_ANY, partner) for partner in partners)]:
            for after in _after(variant, sample):
                yield hypothesis, _together(hypothesis, variant, after)

    def _owned(self, number: int) -> int:
        return sum(int((owner == number).sum()) for owner in self._owner.values())


def _pair_count(world: World) -> int:
    """Return how many pairs of assumptions are tried on a world: one hot entity must not make an audit slow."""
    event_count = sum(int(view.events.table.num_rows) for view in world.views.values())
    return max(_FEWEST_PAIRS, min(_MOST_PAIRS, _EVENTS_FOR_PAIRS // max(1, event_count)))


def _after(variant: Variant, sample: Case) -> Iterator[Variant]:
    """Yield what may have been done to values on top of an assumption: only what explains any."""
    part = sample.take(np.flatnonzero(sample.suspects()))
    changed = _under(variant, part)
    if changed is None:
        return
    for hypothesis in VALUES:
        for after in hypothesis.variants(changed):
            if after.cause == variant.cause:
                continue
            world = after.apply(changed.world)
            if world is None or len(world.transforms) == len(changed.world.transforms):
                continue
            for name in changed.outputs if after.outputs is None else after.outputs & set(changed.outputs):
                found = world.transforms[-1](world, name, changed.reference[name])
                if bool((same_as_served(part, name, found) & part.differs[name]).any()):
                    yield after
                    break


def _mixed(case: Case, alias: str) -> frozenset[str]:
    """Return the outputs to explain that are computed on demand from a view and at least one other."""
    found = set()
    for name in case.outputs:
        aliases = {view_of(column) for column in operands(case.world.plan, name)} & case.world.views.keys()
        if alias in aliases and len(aliases) > 1:
            found.add(name)
    return frozenset(found)


def _variants(hypothesis: Hypothesis, case: Case) -> Iterator[Variant]:
    """Propose assumptions, also about one view alone where nothing else is served of it that would speak for them."""
    served = {view_of(output.column) for output in case.world.plan.outputs if output.kind == "view"}
    silent = {alias: mixed for alias in case.world.views.keys() - served if (mixed := _mixed(case, alias))}
    for variant in hypothesis.variants(case):
        yield variant
        if variant.outputs is None and not variant.is_searched:
            for alias in sorted(silent):
                yield _only_in(alias, variant, silent[alias])


def _only_in(alias: str, variant: Variant, outputs: frozenset[str]) -> Variant:
    """Return an assumption as it is made about one view alone."""

    def apply(world: World) -> World | None:
        changed = variant.apply(world)
        if changed is None or changed.as_of is not world.as_of:
            return None
        return replace(world, views={**world.views, alias: changed.views[alias]})

    return replace(variant, said=f"{variant.said}, in {alias} alone", apply=apply, outputs=outputs)


def _together(hypothesis: Hypothesis, first: Variant, second: Variant) -> Variant:
    """Return the assumption that both hold, the second on top of the first."""

    def apply(world: World) -> World | None:
        changed = first.apply(world)
        return None if changed is None else second.apply(changed)

    names = [found for found in (first.outputs, second.outputs) if found is not None]
    return Variant(
        f"{first.cause} + {second.cause}",
        f"{first.said}; and {second.said}",
        apply,
        {first.cause: dict(first.parameters), second.cause: dict(second.parameters)},
        outputs=frozenset.intersection(*names) if names else None,
        fix=" ".join(part for part in (first.fix, second.fix) if part),
        events={**first.events, **second.events},
        evidence=(*first.evidence, *second.evidence),
        bits=first.bits + second.bits + _PAIR_BITS,
        row_bits=first.row_bits + second.row_bits,
        events_each=first.events_each + second.events_each,
        least_share=max(
            first.least_share, second.least_share, _LOCAL_SHARE if hypothesis.most_bits < math.inf else _PAIR_SHARE
        ),
        least_held=max(first.least_held, second.least_held),
    )


def _under(variant: Variant, case: Case) -> Case | None:
    """Return a case as it is under an assumption, for what may be done to values then."""
    world = variant.apply(case.world)
    if world is None:
        return None
    try:
        found = answer(world, case.outputs, threads=case.facts.threads)
    except FeatureStoreError:
        return None
    if set(found) != set(case.outputs):
        return None
    return replace(case, reference={**case.reference, **found}, memo={})


def _groups(case: Case) -> list[tuple[str, ...]]:
    """Group outputs that are explained together: those of one view, and each on-demand feature by itself."""
    found: dict[str, list[str]] = {}
    for output in case.world.plan.outputs:
        if output.name in case.differs:
            is_view = output.kind == "view"
            key = f"view {view_of(output.column)}" if is_view else f"output {output.name}"
            found.setdefault(key, []).append(output.name)
    return [tuple(names) for names in found.values()]


def _entropy(share: float) -> float:
    """Return the bits it takes to say of one thing whether it belongs to a share."""
    if share in (0.0, 1.0):
        return 0.0
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)
