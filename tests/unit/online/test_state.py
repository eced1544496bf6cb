"""States come back as they were written, and no damage is ever read as a number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.errors import StateError
from featurestore.core.temporal import NOTHING_YET
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import arrange
from featurestore.kernels.keys import KeyIndex
from featurestore.kernels.words import from_words
from featurestore.online.state.codec import StateCodec
from tests.assertions import assert_same_column
from tests.budget import examples
from tests.strategies import scenarios
from tests.unit.online.stores import plan_of, table_of, view_of

ROWS = [("a", 1, 1, 0.5, "x"), ("a", 2, 3, None, "yy"), ("b", 1, 1, -1.0, None)]


def block_of(plan, table):
    keys = [table.column(key.name).combine_chunks() for key in plan.entity.keys]
    index, codes = KeyIndex.build(keys)
    prepared = bind(plan).prepare(table)
    return arrange(prepared, codes[prepared.rows], len(index))


def encoded():
    plan = plan_of(view_of(ROWS))
    codec = StateCodec(plan)
    return codec, codec.encode(block_of(plan, table_of(ROWS)), np.array([7, 8]))


def input_columns(plan, block, dictionaries):
    """Return the values of each input that has any, as columns."""
    for i, source in enumerate(plan.inputs):
        if source.value is not None:
            yield from_words(block.values[i], block.flags[i] == 2, source.value.dtype, dictionaries[i])


@given(scenarios(max_events=10))
@examples(60)
def test_a_state_is_read_as_it_was_written(scenario):
    import pyarrow as pa

    plan = scenario.plan
    codec = StateCodec(plan)
    block = block_of(plan, scenario.table())
    count = len(block.offsets) - 1
    bounds = np.arange(count)
    stored = codec.encode(block, bounds)
    states = codec.decode(stored)
    assert states.bounds.tolist() == bounds.tolist()
    for name in ("offsets", "event_time", "ingest_time", "flags"):
        assert getattr(states.block, name).tolist() == getattr(block, name).tolist()
    for entity in range(count):
        rows = slice(block.offsets[entity], block.offsets[entity + 1])
        mine = replace(block, values=block.values[:, rows], flags=block.flags[:, rows])
        theirs = replace(states.block, values=states.block.values[:, rows], flags=states.block.flags[:, rows])
        own = (
            [
                None if values is None else pa.array(values, type=dtype.arrow)
                for values, dtype in zip(states.dictionaries[entity], codec.coded, strict=True)
            ]
            if codec.has_dictionaries
            else [None] * len(plan.inputs)
        )
        pairs = zip(input_columns(plan, mine, block.dictionaries), input_columns(plan, theirs, own), strict=True)
        for reference, current in pairs:
            assert_same_column(reference=reference, current=current)


@given(scenarios(max_events=10))
@examples(30)
def test_writing_what_was_read_gives_the_same_bytes(scenario):
    plan = scenario.plan
    codec = StateCodec(plan)
    block = block_of(plan, scenario.table())
    for entity, stored in enumerate(codec.encode(block, np.arange(len(block.offsets) - 1))):
        assert len(stored) % 8 == 0
        rows = slice(block.offsets[entity], block.offsets[entity + 1])
        alone = replace(
            block,
            offsets=np.array([0, rows.stop - rows.start]),
            event_time=block.event_time[rows],
            ingest_time=block.ingest_time[rows],
            values=np.ascontiguousarray(block.values[:, rows]),
            flags=np.ascontiguousarray(block.flags[:, rows]),
        )
        assert codec.encode(alone, np.array([entity])) == [stored]


def test_entities_without_a_state_have_no_events():
    codec, (first, second) = encoded()
    states = codec.decode([None, first, None, second])
    assert states.block.offsets.tolist() == [0, 0, 2, 2, 3]
    assert states.bounds.tolist() == [NOTHING_YET, 7, NOTHING_YET, 8]
    assert [bool(own) for own in states.dictionaries] == [False, True, False, True]


def test_no_states_are_an_empty_block():
    codec, _ = encoded()
    assert len(codec.decode([None]).block) == len(codec.decode([]).block) == 0


def test_every_flipped_bit_is_noticed():
    """The header too: a wrong bound would fold events twice, or never."""
    codec, (stored, _) = encoded()
    for place in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[place] ^= 1 << bit
            with pytest.raises(StateError, match="view 'view'"):
                codec.decode([bytes(damaged)])


@given(st.data())
def test_every_cut_off_state_is_noticed(data):
    codec, (stored, _) = encoded()
    with pytest.raises(StateError):
        codec.decode([stored[: data.draw(st.integers(0, len(stored) - 1))]])


@given(st.binary(max_size=64))
def test_other_bytes_are_no_state(found):
    codec, _ = encoded()
    with pytest.raises(StateError) as caught:
        codec.decode([found])
    assert caught.value.code == ("corrupt-state" if found[:8] == b"FSSTATE1" else "foreign-state")


def test_damage_is_named_and_the_fix_is_told():
    codec, (stored, _) = encoded()
    with pytest.raises(StateError) as caught:
        codec.decode([stored[:-8] + bytes(8)])
    assert caught.value.code == "corrupt-state"
    assert str(caught.value) == (
        "online state of feature view 'view': it is damaged. "
        "Rebuild it: store.materialize(views=['view'], full=True).   [corrupt-state]"
    )


def test_a_state_of_another_definition_is_refused():
    _, stored = encoded()
    other = StateCodec(plan_of(view_of(ROWS, ingest_time=None)))
    with pytest.raises(StateError, match="another definition") as caught:
        other.decode(stored)
    assert caught.value.code == "foreign-state"


def test_event_times_are_not_stored_twice():
    """Without an ingest time of their own, events are known when they happen."""
    sizes = []
    for ingest_time in ("learned", None):
        plan = plan_of(view_of(ROWS, ingest_time=ingest_time))
        stored = StateCodec(plan).encode(block_of(plan, table_of(ROWS)), np.array([7, 8]))
        sizes.append(len(stored[0]))
    assert sizes[0] - sizes[1] == 8 * 2
