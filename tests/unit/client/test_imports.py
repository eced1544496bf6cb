"""The client is light: it works where nothing that computes is installed."""

import subprocess
import sys

BLOCKED = (
    "duckdb",
    "numba",
    "llvmlite",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "pandas",
    "pyarrow",
    "numpy",
    "pydantic",
)

PROGRAM = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Blocked())

import json
import httpx
from featurestore.client import FeatureStoreClient

def answer(request):
    asked = json.loads(request.content)
    view = {{"horizon": None, "watermark": "2024-01-01T00:00:00Z", "complete_until": None, "is_stale": False}}
    row = {{"values": [1, "2024-05-01", "AP8=", "1.50", ["2024-01-01T00:00:00Z"]], "statuses": ["PRESENT"] * 5}}
    row["event_times"] = {{"v": "2024-01-01T00:00:00Z"}}
    dtypes = {{"columns": ["int64", "date", "binary", "decimal(9,2)", "list<timestamp>"]}}
    dtypes |= {{"keys": {{"user": "int64"}}, "request": {{}}}}
    return httpx.Response(200, json={{
        "service": asked["service"], "fingerprint": "f", "request_id": "r", "as_of": "2024-01-01T00:00:00Z",
        "columns": list("abcde"), "rows": [row], "views": {{"v": view}}, "dtypes": dtypes,
    }})

with FeatureStoreClient("http://test", transport=httpx.MockTransport(answer)) as client:
    print(client.get_online_features("churn", [{{"user": 1}}]).to_dicts())
"""


def test_it_asks_and_reads_without_what_computes():
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[{'user': 1, 'a': 1, 'b': datetime.date(2024, 5, 1), 'c': b'\\x00\\xff'")
