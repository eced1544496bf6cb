"""User-defined functions: their text, and which of them could give the same answer twice."""

import math
import random
from math import sqrt
from time import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore import agg, col, lit, udf
from featurestore.definitions.udf import find_udf, source_text
from featurestore.errors import ConfigError
from tests.unit.plan.world import mistakes_in, plan_of, view

FACTOR = 2.0


@udf(returns="float64")
def doubled(values):
    # A comment, and what follows, are part of the text.
    return pc.multiply(values, 2.0)


@udf(
    returns="float64",
)
def rooted(values):
    def root(value):
        return None if value is None else sqrt(math.fabs(value))

    return pa.array([root(value) for value in values.to_pylist()], type=pa.float64())


def test_a_udf_gives_an_expression_that_holds_its_text():
    expression = doubled(col("x"))
    assert expression.op == "udf"
    params = dict(expression.params)
    assert (params["name"], params["returns"]) == ("doubled", "float64")
    assert params["source"].startswith("def doubled(values):\n    # A comment")
    assert list(params) == sorted(params)


def test_decorators_and_indentation_are_no_part_of_the_text():
    def plain(x):
        return x

    assert source_text(plain) == "def plain(x):\n    return x"
    assert rooted.source.startswith("def rooted(values):\n    def root(value):")


def test_operands_that_are_no_expressions_become_literals():
    expression = doubled(3.0)
    assert expression.args[0].op == lit(3.0).op


def test_a_function_is_found_again_by_its_name_and_text():
    assert find_udf("doubled", doubled.source) is doubled


def test_a_function_with_another_text_is_not_the_one():
    with pytest.raises(ConfigError, match="has another text than the plan's"):
        find_udf("doubled", doubled.source + " ")


def test_a_function_nobody_imported_is_named():
    with pytest.raises(ConfigError, match="udf 'tripled': the function is not defined in this process"):
        find_udf("tripled", "def tripled(x): ...")


@pytest.mark.parametrize("function", [doubled, rooted], ids=["doubled", "rooted"])
def test_pure_functions_have_no_problems(function):
    assert list(function.problems()) == []


def reads_a_global(x):
    return pc.multiply(x, FACTOR)


def uses_random(x):
    return pc.multiply(x, random.random())


def imports_random(x):
    import random as chance

    return pc.multiply(x, chance.random())


def asks_numpy_for_chance(x):
    import numpy as np

    return pa.array(np.random.default_rng().random(len(x)))


def asks_arrow_for_chance(x):
    return pc.random(len(x))


def asks_the_time(x):
    return pc.multiply(x, time())


def asks_for_today(x):
    from datetime import date

    return pc.multiply(x, date.today().day)


def hashes(x):
    return pa.array([hash(value) for value in x.to_pylist()])


def opens(x):
    return pa.array(open("numbers").read())  # noqa: PTH123  # what is tested


def remembers(x):
    global FACTOR  # noqa: PLW0603  # what is tested
    FACTOR = 3.0
    return x


def has_a_default(x, factor=FACTOR):
    return pc.multiply(x, factor)


def calls_a_neighbour(x):
    return reads_a_global(x)


def hides_it_inside(x):
    def chance():
        return random.random()

    return pa.array([chance() for _ in x])


def names_nothing(x):
    return nothing(x)  # noqa: F821


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (reads_a_global, "it uses the global 'FACTOR', which its source text does not hold"),
        (uses_random, "it uses the global 'random', which its source text does not hold"),
        (imports_random, "it imports 'random'"),
        (asks_numpy_for_chance, "it asks for 'random'"),
        (asks_arrow_for_chance, "it asks for 'random'"),
        (asks_the_time, "it uses the global 'time', which its source text does not hold"),
        (asks_for_today, "it asks for 'today'"),
        (hashes, "it uses 'hash'"),
        (opens, "it uses 'open'"),
        (remembers, "it assigns the global 'FACTOR'"),
        (has_a_default, "it has default values"),
        (calls_a_neighbour, "it uses the global 'reads_a_global', which its source text does not hold"),
        (hides_it_inside, "it uses the global 'random', which its source text does not hold"),
        (names_nothing, "it uses 'nothing'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_that_could_answer_twice_differently_has_a_problem(function, problem):
    assert problem in list(udf(returns="float64")(function).problems())


def test_a_function_of_a_function_cannot_use_what_is_around_it():
    factor = 2.0

    def scaled(x):
        return pc.multiply(x, factor)

    assert list(udf(returns="float64")(scaled).problems()) == ["it uses 'factor' of the function around it"]


def test_a_function_without_a_text_is_refused():
    made = udf(returns="float64")(eval("lambda x: x"))
    assert list(made.problems()) == ["its source text cannot be read"]


def test_the_compiler_reports_what_is_wrong_with_a_function():
    impure = udf(returns="float64")(uses_random)
    found = mistakes_in(view({"f": agg.mean(impure(col("arr_delay"))).over("1d")}))
    assert {mistake.code for mistake in found} == {"impure-udf"}
    assert found[0].problem == "udf 'uses_random' could give different answers: it asks for 'random'"


def test_the_text_of_a_function_reaches_the_fingerprint():
    def first(x):
        return pc.add(x, 1.0)

    one = udf(returns="float64")(first)

    def first(x):
        return pc.add(x, 2.0)

    two = udf(returns="float64")(first)
    prints = [plan_of(view({"f": agg.last(made(col("arr_delay")))})).fingerprint for made in (one, two)]
    assert prints[0] != prints[1]
