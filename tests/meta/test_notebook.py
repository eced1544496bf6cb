"""The store inside a real Jupyter kernel."""

import nbformat
import pytest
from nbclient import NotebookClient

CELL = """
import pandas as pd
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col

from pathlib import Path

with open("clicks.csv", "w") as file:
    file.write("user,amount,at\\nann,3.5,2026-01-01T10:00:00Z\\nbob,8.0,2026-01-01T11:00:00Z\\n")
user = Entity("user", key="user")
clicks = FileSource("clicks", path=Path("clicks.csv").resolve(), event_time="at")
spend = FeatureView("spend", entity=user, source=clicks, features={"total": agg.sum(col("amount")).lifetime()})
store = FeatureStore.local("store")
store.apply(FeatureService("churn", features=[spend]))
spine = pd.DataFrame({"user": ["ann"], "as_of": pd.to_datetime(["2026-01-02"], utc=True)})
training = store.training_set("churn", spine, "training")
print(training.to_arrow().column("spend__total").to_pylist())
"""


# ipykernel warns of an encryption that a test on loopback does not need, and pyzmq leaves sockets to the collector.
@pytest.mark.filterwarnings("ignore")
def test_a_csv_source_works_in_a_notebook_without_ipywidgets(tmp_path, monkeypatch):
    """DuckDB refuses every change of its progress bar in such a notebook; the store must not ask for one."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert "".join(out.get("text", "") for out in notebook.cells[0].outputs).strip().endswith("[3.5]")
