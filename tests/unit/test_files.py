"""Files and folders: the address of another place is refused wherever a path is written to."""

from pathlib import Path

import pytest

from featurestore.cli.common import write_page
from featurestore.database import open_database
from featurestore.dead_letters import DeadLetter, append_letters
from featurestore.errors import FeatureStoreError
from featurestore.files import local_path
from featurestore.offline.writer import check_target
from featurestore.online.opening import open_online_store
from featurestore.skew.export import MismatchFile

LETTER = DeadLetter("topic", 0, 0, None, "", "no event", "")
WRITERS = {
    "training set": check_target,
    "mismatches": lambda path: MismatchFile(Path(path)),
    "dead letters": lambda path: append_letters(Path(path), [LETTER]),
    "report": lambda path: write_page(Path(path), "text"),
    "database": lambda path: open_database(f"sqlite:///{path}", where="registry"),
    "online store": lambda path: open_online_store(f"sqlite:///{path}").read([b"key"]),
}


@pytest.mark.parametrize("address", ["s3://bucket/one", "gs://b/c", "abfss://c@a.dfs.core.windows.net/x", "hdfs://h/x"])
@pytest.mark.parametrize("what", WRITERS)
def test_an_address_is_never_taken_for_a_path(what, address, tmp_path, monkeypatch):
    """Taken for a path it would make a folder named after the scheme, which ends with the machine."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FeatureStoreError, match="is not a path on this machine"):
        WRITERS[what](address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["one/two", "/one/two", "a:b", "C:/one", "one/s3:/two", "./s3x", "s3", "~/one"])
def test_other_paths_stay_what_they_are(path):
    assert local_path(path) == Path(path)
    assert local_path(Path(path)) == Path(path)
