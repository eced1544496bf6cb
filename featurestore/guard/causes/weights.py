"""The weights by which explanations are compared: what it costs, in bits, to name an assumption and where it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """Costs in bits and shares of values. ``scoring`` says how they are put together.

    Where they come from: the costs of naming can be read as counts of possibilities. Naming one of a hundred or so
    assumptions takes 7 bits; a number that was read from the values it explains takes 10 more, as many as a value is
    worth at most; what a materialize run recorded is one of a handful of possibilities and takes 2. The costs per row
    and the shares were tuned by hand on the faults of ``tests/skew/faults.py`` in the world of ``tests/skew/shop.py``,
    planted in all rows and in a fifth of the rows, until the planted cause was named for at least 85 % of the values.
    ``docs/causes.md`` measures the accuracy on the same faults: it is the accuracy on the tuning set.

    Attributes:
        value: Most that reproducing one value is worth, so that a feature of which all values are distinct does not
            outweigh everything.
        naming: Naming an assumption.
        naming_recorded: Naming an assumption that the records of materialize runs speak for.
        naming_learned: Naming an assumption whose number was read from the values it explains.
        naming_hours: Naming an error of several hours in a query; a time zone explains as much and is more likely.
        naming_contradicted: Naming an old state where the watermarks in the log say it was fresh.
        naming_pair: Naming two assumptions together, beyond what each costs.
        known_elsewhere: Saved if the assumption explains another view already.
        event: Naming one event beyond those that the difference of a row gives by itself.
        row_without_entity: Per row, saying that its entity was not there.
        row_of_changed_source: Per row, saying that it was answered from rows the source no longer has, where rows may
            only have been added: more than searching the added events.
        row_with_doubled_event: Per row, saying which events counted twice.
        row_with_lost_event: Per row, saying which events were lost.
        row_with_late_event: Per row, saying which events were late and until when.
        where_doubled: Most that it costs per value to say in which rows events counted twice.
        where_lost: Most that it costs per value to say in which rows events were lost.
        where_respelled: Most that it costs per value to say which texts were respelled.
        constant_share: Share of a feature's differing values that one factor or offset must explain.
        constant_held_share: Share of a feature's values that a constant must hold for where single rows would say
            little. Whole numbers come out by chance, and lost or doubled events change counts by small constants.
        default_share: Share of a feature's differing values that one default must explain.
        pair_share: Share of a feature's differing values that two assumptions together must explain.
        local_pair_share: The same if one of the two may hold in single rows.
        fresh_share: Share of stale answers in a log below which its watermarks say that the state was fresh.
        fitting_value: What each value must be worth for an assumption to fit a few rows although it spoils others.
        fitting_values: What the values of a few rows must be worth together for any assumption to fit them.
    """

    value: float = 10.0

    naming: float = 7.0
    naming_recorded: float = 2.0
    naming_learned: float = 17.0
    naming_hours: float = 8.0
    naming_contradicted: float = 25.0
    naming_pair: float = 7.0
    known_elsewhere: float = 4.0
    event: float = 3.0

    row_without_entity: float = 4.5
    row_of_changed_source: float = 6.0
    row_with_doubled_event: float = 5.0
    row_with_lost_event: float = 5.0
    row_with_late_event: float = 6.0
    where_doubled: float = 1.0
    where_lost: float = 2.0
    where_respelled: float = 3.0

    constant_share: float = 0.5
    constant_held_share: float = 0.9
    default_share: float = 0.05
    pair_share: float = 0.05
    local_pair_share: float = 0.3
    fresh_share: float = 0.5
    fitting_value: float = 5.0
    fitting_values: float = 2.0


WEIGHTS = Weights()
"""The weights that audits use."""
