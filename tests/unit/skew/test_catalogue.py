"""The catalogue holds every hypothesis of the package, in an order that the hypotheses state themselves."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

from featurestore.guard.causes import hypotheses
from featurestore.guard.causes.catalogue import CAUSES, HYPOTHESES, UNEXPLAINED
from featurestore.guard.causes.model import Assumption, Hypothesis, cause_text

MODULES = [info.name for info in iter_modules(hypotheses.__path__)]


def test_hypotheses_stand_in_the_order_of_their_ranks_and_no_two_share_one():
    ranks = [hypothesis.rank for hypothesis in HYPOTHESES]
    assert ranks == sorted(set(ranks))


def test_every_cause_has_a_module_named_like_it():
    """A reader who sees a cause in a report finds it by its name."""
    assert set(MODULES) == set(CAUSES) - {UNEXPLAINED}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_holds_hypotheses_of_its_own_cause_alone(name):
    members = vars(import_module(f"{hypotheses.__name__}.{name}")).values()
    assert {member.name for member in members if isinstance(member, Hypothesis)} == {name}


def test_hypotheses_of_one_cause_have_one_meaning():
    meanings = {(hypothesis.name, hypothesis.meaning) for hypothesis in HYPOTHESES}
    assert len(meanings) == len(CAUSES) - 1


def test_what_searches_events_pays_for_each_row_and_does_not_alter_values():
    for hypothesis in HYPOTHESES:
        assert not (hypothesis.searches_events and hypothesis.alters_values)
        assert hypothesis.row_bits > 0 or not hypothesis.searches_events


def test_a_proposed_assumption_has_the_name_of_its_hypothesis_as_its_cause():
    found = Hypothesis("lost", 1, "", lambda _: [Assumption("a is lost", lambda world: world)])
    (assumption,) = found.assumptions(None)
    assert assumption.cause == ("lost",)
    assert cause_text((*assumption.cause, "cast")) == "lost + cast"
