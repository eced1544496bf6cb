"""Parts of a store: made once however many threads need them, closed all whatever fails; and where paths count from."""

import logging
import threading
import time

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, FileSource
from featurestore.config import Config
from featurestore.core.errors import SourceMissingError, StorageError
from featurestore.online.stores.memory import memory_store
from featurestore.parts import CLOSING_ORDER, Part, Parts
from tests.server.conftest import NOW, ORDERS
from tests.unit.store.test_store import spending


@pytest.mark.parametrize("name", ["registry", "serving", "streams", "online", "api_keys"])
def test_a_part_is_made_once_for_many_threads(tmp_path, monkeypatch, name):
    made = []
    parts = {one: part for one, part in vars(Parts).items() if isinstance(part, Part)}

    def slowly(part, build):
        def made_slowly(store):
            made.append(part)
            time.sleep(0.02)
            return build(store)

        return made_slowly

    for one, part in parts.items():
        monkeypatch.setattr(part, "_make", slowly(one, part._make))
    with FeatureStore.local(tmp_path / "store") as store:
        start, seen = threading.Barrier(8), []

        def need():
            start.wait()
            seen.append(getattr(store.parts, name))

        threads = [threading.Thread(target=need) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 8 and len(set(map(id, seen))) == 1
        assert len(made) == len(set(made)), "its own parts are made once, too"


def test_every_part_is_in_the_order_of_closing():
    assert {name for name, part in vars(Parts).items() if isinstance(part, Part)} == set(CLOSING_ORDER)


def test_closing_closes_every_part_and_raises_the_first_failure(tmp_path, caplog):
    closed = []

    class Failing:
        def __init__(self, name):
            self._name = name

        def close(self):
            closed.append(self._name)
            if self._name in ("streams", "event_log"):
                raise StorageError(f"{self._name} cannot be closed")

    config = Config.local(tmp_path / "store")
    store = FeatureStore(config, parts=Parts(config, **{name: Failing(name) for name in CLOSING_ORDER}))
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError, match="streams cannot be closed"):
        store.close()
    assert closed == list(CLOSING_ORDER)
    assert "event_log cannot be closed" in caplog.text
    store.close()
    assert closed == list(CLOSING_ORDER), "what was closed is not closed again"


def test_a_part_that_is_handed_in_is_used(tmp_path):
    config, states = Config.local(tmp_path / "store"), memory_store("handed in")
    with FeatureStore(config, parts=Parts(config, online=states)) as store:
        assert store.parts.online is states
    with pytest.raises(TypeError, match="a feature store has no part 'onlin'"):
        Parts(config, onlin=states)


def test_a_part_is_found_by_its_former_private_name(tmp_path):
    with FeatureStore.local(tmp_path / "store") as store:
        assert store._serving_log is store.parts.serving_log
        with pytest.raises(AttributeError, match="_no_such_part"):
            _ = store._no_such_part


def test_relative_paths_of_a_local_store_count_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    pq.write_table(ORDERS, tmp_path / "work" / "orders.parquet")
    monkeypatch.chdir(tmp_path / "work")
    source = FileSource("orders", path="orders.parquet", event_time="at")
    with FeatureStore.local(tmp_path / "store") as store:
        store.apply(spending(source))
        assert store.materialize(NOW)[0].events == 3
    monkeypatch.chdir(tmp_path)
    with FeatureStore.local(tmp_path / "store") as store, pytest.raises(SourceMissingError) as caught:
        store.materialize(NOW, full=True)
    assert f"Looked for {tmp_path}/orders.parquet" in str(caught.value)
    assert "without one, from the working directory" in str(caught.value)
