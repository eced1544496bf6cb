"""The instants of a spine may stand in a column of any name."""

import pyarrow as pa
import pytest

from featurestore.core.errors import SpineError
from featurestore.offline.dataset import TrainingSet
from featurestore.testing import evaluate
from tests.unit.offline.samples import events, service_of, spine, store_of


def renamed():
    """Return the spine as other systems name its columns."""
    table = spine()
    return table.rename_columns(["event_timestamp" if name == "as_of" else name for name in table.column_names])


def test_the_values_are_those_of_a_column_as_of_and_the_name_is_kept(tmp_path):
    store = store_of(tmp_path)
    usual = store.training_set("model", spine(), tmp_path / "usual")
    other = store.training_set("model", renamed(), tmp_path / "other", as_of="event_timestamp")
    assert other.to_arrow().select(renamed().column_names).equals(renamed())
    features = [name for name in usual.to_arrow().column_names if "__" in name]
    assert other.to_arrow().select(features).equals(usual.to_arrow().select(features))
    assert TrainingSet.open(other.path).manifest.as_of == "event_timestamp"
    assert other.manifest.rows_beyond_newest_event == usual.manifest.rows_beyond_newest_event


def test_a_column_as_of_beside_the_named_one_passes_through(tmp_path):
    asked = renamed().append_column("as_of", pa.array(range(renamed().num_rows)))
    built = store_of(tmp_path).training_set("model", asked, tmp_path / "set", as_of="event_timestamp")
    assert built.to_arrow().column("as_of").to_pylist() == list(range(asked.num_rows))


def test_the_guard_reads_training_sets_with_a_named_column_as_others(tmp_path):
    store = store_of(tmp_path)
    usual = store.training_set("model", spine(), tmp_path / "usual")
    other = store.training_set("model", renamed(), tmp_path / "other", as_of="event_timestamp")
    assert store.leakage(other, "label") == store.leakage(usual, "label")
    policies = ["every 1d"]
    given = store.simulate("spending", policies, spine=renamed(), as_of="event_timestamp")
    assert given == store.simulate("spending", policies, spine=spine())


def test_definitions_are_tried_on_such_a_spine(tmp_path):
    service = service_of(tmp_path / "orders.parquet")
    usual = evaluate(service, events=events(), at=spine())
    other = evaluate(service, events=events(), at=renamed(), as_of="event_timestamp")
    assert other.column_names == [name.replace("as_of", "event_timestamp") for name in usual.column_names]
    assert other.columns == usual.columns


def test_a_spine_without_as_of_gets_the_hint_which_column_may_hold_the_instants(tmp_path):
    with pytest.raises(SpineError) as caught:
        store_of(tmp_path).training_set("model", renamed(), tmp_path / "set")
    assert str(caught.value) == (
        "spine: there is no column 'as_of' (the instants asked about). If 'event_timestamp' holds them, say"
        " as_of='event_timestamp' (on the command line --as-of event_timestamp). Columns: budget,"
        " event_timestamp, label, user.   [spine-column]"
    )
