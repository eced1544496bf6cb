"""The JSON form of plans and their fingerprints, apart from any compiler."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import INT64, DType, list_of
from featurestore.core.errors import RegistryError
from featurestore.plan.codec import COSMETIC, UNORDERED, VERSION, fingerprint_of, from_json, to_json
from featurestore.plan.model import Column, Param, TypedExpr


@dataclass(frozen=True)
class Leaf:
    name: str
    note: str = field(default="", metadata=COSMETIC)
    value: Param = None


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    kind: Literal["big", "small"]
    bag: tuple[Leaf, ...] = field(default=(), metadata=UNORDERED)
    pair: tuple[str, int] = ("", 0)
    dtype: DType | None = None
    size: int = 0
    share: float = 0.0
    is_green: bool = False


constants = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
leaves = st.builds(Leaf, st.text(), st.text(), constants)
trees = st.builds(
    Tree,
    st.lists(leaves, max_size=3).map(tuple),
    st.sampled_from(["big", "small"]),
    st.lists(leaves, max_size=3).map(tuple),
    st.tuples(st.text(), st.integers()),
    st.none() | st.just(list_of(DType("decimal", precision=10, scale=2))),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


def bits(value):
    """Return a value with the type of every constant, so that 1, 1.0, True, 0.0 and -0.0 are different."""
    if isinstance(value, tuple):
        return tuple(bits(item) for item in value)
    return type(value).__name__, repr(value)


@given(trees)
def test_reading_back_gives_the_same_object_to_the_bit(tree):
    again = from_json(Tree, to_json(tree))
    assert again == tree
    assert bits(tuple(leaf.value for leaf in again.leaves)) == bits(tuple(leaf.value for leaf in tree.leaves))
    assert to_json(again) == to_json(tree)


@given(leaves)
def test_what_is_cosmetic_is_in_the_text_and_not_in_the_fingerprint(leaf):
    other = Leaf(leaf.name, leaf.note + "!", leaf.value)
    assert to_json(other) != to_json(leaf)
    assert fingerprint_of(other) == fingerprint_of(leaf)


@given(st.permutations([Leaf("a"), Leaf("b"), Leaf("c", value=1)]))
def test_the_order_of_what_is_unordered_does_not_reach_the_fingerprint(bag):
    assert fingerprint_of(Tree((), "big", tuple(bag))) == fingerprint_of(
        Tree((), "big", (Leaf("a"), Leaf("b"), Leaf("c", value=1)))
    )


def test_the_order_of_what_is_ordered_does():
    one, two = Leaf("a"), Leaf("b")
    assert fingerprint_of(Tree((one, two), "big")) != fingerprint_of(Tree((two, one), "big"))


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), (0, False), (0.0, -0.0), ("1", 1), (None, ()), ((1,), ((1,),))]
)
def test_constants_that_python_calls_equal_stay_apart(one, other):
    assert fingerprint_of(Leaf("a", value=one)) != fingerprint_of(Leaf("a", value=other))


def test_fields_at_their_default_are_not_written():
    assert json.loads(to_json(Tree((), "big")))["value"] == {"kind": "big", "leaves": []}


def test_a_dtype_is_written_by_its_name():
    assert json.loads(to_json(Column("a", list_of(INT64))))["value"]["dtype"] == "list<int64>"


def test_the_text_is_ascii_sorted_and_without_space():
    text = to_json(Tree((Leaf("ü", value=("x", 1.5)),), "big"))
    assert text.isascii()
    assert " " not in text
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_a_float_that_is_not_finite_has_no_form():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Leaf("a", value=float("nan")))


def test_a_fingerprint_is_64_hexadecimal_digits_and_knows_the_class():
    @dataclass(frozen=True)
    class Twig:
        name: str

    assert len(fingerprint_of(Twig("a"))) == 64
    assert int(fingerprint_of(Twig("a")), 16)
    assert fingerprint_of(Twig("a")) != fingerprint_of(Leaf("a"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        ("[]", "it holds something else"),
        ('{"kind":"Leaf"}', "it holds something else"),
        (json.dumps({"kind": "Tree", "version": VERSION + 1}), f"it has version {VERSION + 1}"),
        (json.dumps({"kind": "Tree", "version": VERSION}), "Tree: got NoneType, expected an object"),
    ],
)
def test_a_text_that_is_something_else_is_refused(text, problem):
    with pytest.raises(RegistryError) as caught:
        from_json(Tree, text)
    assert problem in str(caught.value)
    assert caught.value.code == "unreadable-plan"


GOOD = {"leaves": [{"name": "a"}], "kind": "big"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"leaves": 3}, "Tree.leaves: got int, expected a list"),
        ({"leaves": [{}]}, "Tree.leaves[0]: field 'name' is missing"),
        ({"leaves": [{"name": 1}]}, "Tree.leaves[0].name: got int, expected str"),
        ({"leaves": [{"name": "a", "value": {}}]}, "Tree.leaves[0].value: got dict, expected a constant"),
        ({"more": 1}, "Tree: unknown field 'more'"),
        ({"kind": "huge"}, "Tree.kind: got 'huge', expected one of 'big', 'small'"),
        ({"kind": []}, "Tree.kind: got [], expected one of"),
        ({"pair": ["a"]}, "Tree.pair: got 1 items, expected 2"),
        ({"dtype": "text"}, "Tree.dtype: 'text' is not a dtype"),
        ({"dtype": 5}, "Tree.dtype"),
        ({"size": True}, "Tree.size: got bool, expected int"),
        ({"share": 1}, "Tree.share: got int, expected float"),
        ({"is_green": 1}, "Tree.is_green: got int, expected bool"),
    ],
)
def test_a_part_of_a_wrong_type_is_named_by_its_path(changes, problem):
    text = json.dumps({"kind": "Tree", "version": VERSION, "value": GOOD | changes})
    with pytest.raises(RegistryError) as caught:
        from_json(Tree, text)
    assert problem in caught.value.problem


def test_an_expression_keeps_the_types_of_its_constants():
    literal = TypedExpr("literal", INT64, params=(("value", ("a", 1, 1.0, True, None)),))
    assert bits(from_json(TypedExpr, to_json(literal)).params) == bits(literal.params)
