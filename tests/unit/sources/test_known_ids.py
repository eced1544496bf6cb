"""Sets of hashes, in memory and beyond it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.sources import ReadSettings
from featurestore.sources.known_ids import HashSet

HASHES = st.lists(st.integers(0, 40) | st.integers(2**63, 2**64 - 1), max_size=30)


@given(st.lists(HASHES, max_size=6), HASHES, st.sampled_from([1, 64, 2**30]))
def test_a_set_has_what_was_added_and_nothing_else(tmp_path_factory, added, asked, memory_bytes):
    """Also where a run is full after one hash, or four, and goes to a file."""
    settings = ReadSettings(memory_bytes=16 * 32 * memory_bytes, temp_folder=tmp_path_factory.getbasetemp())
    known = HashSet(settings)
    for some in added:
        known.add(np.array(some, dtype=np.uint64))
    expected = bool(set(asked) & {one for some in added for one in some})
    assert known.has_any(np.array(asked, dtype=np.uint64)) == expected


def test_full_runs_leave_memory_and_no_file_has_a_name(tmp_path):
    known = HashSet(ReadSettings(memory_bytes=16 * 32 * 1_000, temp_folder=tmp_path))
    for start in range(0, 10_000, 500):
        known.add(np.arange(start, start + 500, dtype=np.uint64))
    assert [isinstance(run, np.memmap) for run in known._full] == [True] * 10
    assert len(known._filling) == 0
    assert list(tmp_path.iterdir()) == []
    assert all(known.has_any(np.array([one], dtype=np.uint64)) for one in (0, 999, 1_000, 9_999))
    assert not known.has_any(np.array([10_000], dtype=np.uint64))
