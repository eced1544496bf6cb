"""Expressions that make no sense say where, what and how to mend it."""

import pytest

from featurestore.core.dtypes import FLOAT64
from featurestore.definitions.expr import as_of, col, least, lit, request, when
from featurestore.kernels.expressions import FUNCTIONS
from featurestore.plan.operations import OPERATIONS
from featurestore.plan.typing import Scope
from tests.unit.expressions.world import B, I, L, M, S, T, X, mistake_in, typed

MISTAKES = {
    "text is no number": (S + 1, "wrong-operand", "(col('s') + 1)", ".cast('float64')"),
    "floats have no hash": (X.hash_bucket(3), "wrong-operand", "float64", "int64 or string"),
    "and takes booleans": (I & B, "wrong-operand", "expected bool", "Compare it"),
    "decimals do not meet floats": (M + X, "wrong-operand", "cannot be combined", ".cast('float64')"),
    "decimals are not divided": (M / 2, "wrong-operand", "decimals are not accepted", ".cast('float64')"),
    "lists are not compared": (L == L, "wrong-operand", "lists cannot be compared", ""),
    "no such pattern": (S.regexp_matches("("), "wrong-operand", "not a valid regular expression", ""),
    "no such zone": (T.hour("Mars"), "unknown-zone", "'Mars' is not a time zone", "America/New_York"),
    "no such unit": (T.since(T, "parsec"), "wrong-operand", "parsec", "hour"),
    "no such calendar unit": (T.truncate("fortnight"), "wrong-operand", "fortnight", "quarter"),
    "no such dtype": (X.cast("flot64"), "unknown-dtype", "'flot64' is not a dtype", "Did you mean 'float64'?"),
    "no such cast": (T.cast("bool"), "wrong-operand", "timestamp cannot be cast to bool", ""),
    "no such column": (col("ii") + 1, "unknown-column", "there is no column 'ii'", "Did you mean 'i'?"),
    "booleans have no order": (least(B, B), "wrong-operand", "no order", ""),
    "conditions are booleans": (when(I, 1).otherwise(2), "wrong-operand", "condition 1 is int64", ""),
    "branches must meet": (when(B, 1).otherwise("a"), "wrong-operand", "cannot be combined", ""),
    "edges ascend": (X.bucketize([1, 1]), "wrong-operand", "ascending", ""),
    "integers have 64 bits": (lit(2**63) + 1, "wrong-operand", "does not fit", ""),
    "floats are finite": (X + float("nan"), "wrong-operand", "not finite", ""),
    "no request over events": (request("q") + 1, "unknown-request", "no request input 'q'", ""),
    "no question over events": (T.since(as_of()), "look-ahead", "as_of()", ""),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name):
    expression, code, problem, hint = MISTAKES[name]
    mistake = mistake_in(expression)
    assert mistake.code == code
    assert problem in mistake.problem or problem in mistake.where
    assert hint in mistake.hint
    assert mistake.where.startswith("feature view 'v'")


def test_all_mistakes_of_an_expression_are_reported_together():
    found, mistakes = typed((S + 1) * col("nowhere"))
    assert found is None
    assert [mistake.code for mistake in mistakes] == ["wrong-operand", "unknown-column"]


def test_expressions_have_no_truth_value():
    with pytest.raises(TypeError, match="write & for and"):
        bool(I > 1)


def test_constants_must_be_of_a_known_type():
    with pytest.raises(TypeError, match="cannot be a constant"):
        lit(object())


def test_requests_type_where_they_are_known():
    found, mistakes = typed(request("q") + 1, Scope(requests={"q": FLOAT64}))
    assert mistakes == []
    assert found.dtype == FLOAT64


def test_every_operation_has_a_rule_and_a_function():
    assert set(OPERATIONS) == set(FUNCTIONS)


def test_same_compares_structure():
    assert (I + 1).same(col("i") + 1)
    assert not (I + 1).same(I + 2)
