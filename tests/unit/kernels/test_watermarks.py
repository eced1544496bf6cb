"""Questions with watermarks of their own are answered as if each had been asked by itself, whatever their order."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore import agg, col, continuous, every
from featurestore.core.temporal import NO_WATERMARK
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import arrange
from tests.assertions import assert_same_answer
from tests.budget import examples
from tests.unit.online.stores import T0, plan_of, table_of, view_of

SECOND = 1_000_000
FEATURES = {
    "sum": agg.sum(col("x")).over("4s"),
    "median": agg.median(col("x")).over("6s"),
    "last": agg.last(col("name")).ttl("3s"),
    "two": agg.last_n(col("x"), 2),
    "since": agg.time_since_last(),
    "largest": agg.max(col("x")).lifetime(),
}


@given(st.data(), st.sampled_from((continuous(), every("3s", lag="1s"))), st.booleans())
@examples(100)
def test_each_question_is_answered_up_to_its_own_watermark(data, refresh, inclusive):
    event = st.tuples(
        st.sampled_from("ab"), st.integers(0, 12), st.sampled_from((0, 1, 5)), st.sampled_from((1.0, 2.0))
    )
    rows = [(user, at, at + late, x, "xy"[at % 2]) for user, at, late, x in data.draw(st.lists(event, max_size=16))]
    plan = plan_of(view_of(rows, features=FEATURES, refresh=refresh, inclusive=inclusive))
    prepared = bind(plan).prepare(table_of(rows))
    codes = np.array([ord(user) - ord("a") for user, *_ in rows], dtype=np.int64)
    block = arrange(prepared, codes, 2)
    asked = data.draw(
        st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 15), st.integers(0, 16)), min_size=1, max_size=12)
    )
    entity = np.array([code for code, _, _ in asked])
    as_of = np.array([T0 + at * SECOND for _, at, _ in asked])
    watermark = np.array([NO_WATERMARK if mark == 16 else T0 + mark * SECOND for _, _, mark in asked])
    together = bind(plan).evaluate_each(block, entity, as_of, watermark=watermark)
    for row in range(len(asked)):
        one = slice(row, row + 1)
        alone = bind(plan).evaluate(block, entity[one], as_of[one], watermark=int(watermark[row]))
        own = replace(
            together,
            words=together.words[:, one],
            statuses=together.statuses[:, one],
            newest=together.newest[one],
        )
        assert_same_answer(reference=alone, current=own)
