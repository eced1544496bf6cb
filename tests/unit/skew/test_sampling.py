"""Choosing by hash: buckets follow from keys, and for rows from keys and instants, whatever the dtype."""

from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import INT64, parse_dtype
from featurestore.guard.comparing.sampling import key_buckets, row_buckets, sampled
from featurestore.plan.model import Column

AT = pa.array(range(1000), pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def plan(*columns):
    return SimpleNamespace(join_keys=columns)


def test_decimal_keys_are_sampled_like_others():
    keys = pa.array([Decimal(number) / 4 for number in range(1000)], pa.decimal128(10, 2))
    log = pa.table({"key__price": keys})
    dtype = parse_dtype("decimal(10, 2)")
    buckets = key_buckets(plan(Column("price", dtype)), log)
    assert len(np.unique(buckets)) > 990
    assert 200 < sampled(plan(Column("price", dtype)), log, 0.3).num_rows < 400


def test_rows_of_one_entity_have_buckets_of_their_own():
    one = plan(Column("user", INT64))
    spine = pa.table({"user": [7] * 1000, "as_of": AT})
    buckets = row_buckets(one, spine)
    assert len(np.unique(buckets)) > 990
    order = np.random.default_rng(1).permutation(1000)
    assert (row_buckets(one, spine.take(pa.array(order))) == buckets[order]).all()
    assert len(set(key_buckets(one, pa.table({"key__user": [7] * 1000})).tolist())) == 1
