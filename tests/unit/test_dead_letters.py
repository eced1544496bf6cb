"""Files of dead letters: appended to by several, while lines are removed."""

import base64
import threading

import msgspec
import pytest

from featurestore.core.errors import StorageError
from featurestore.online.pushing.dead_letters import (
    DeadLetter,
    append_letters,
    events_in,
    remove_letters,
)


def letter(number, name):
    return DeadLetter("topic", 0, number, None, "", "wrong", base64.b64encode(f'"{name}"'.encode()).decode())


def test_nothing_that_is_appended_while_others_remove_is_lost(tmp_path):
    path = tmp_path / "letters" / "orders.jsonl"

    def append(first):
        for number in range(first, first + 40):
            append_letters(path, [letter(number, "gone"), letter(number, "kept")])

    threads = [threading.Thread(target=append, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    removed = 0
    while any(thread.is_alive() for thread in threads):
        removed += remove_letters(path, lambda events: events == ["gone"]).count
    for thread in threads:
        thread.join()
    removed += remove_letters(path, lambda events: events == ["gone"]).count
    left = [msgspec.json.decode(line, type=DeadLetter) for line in path.read_bytes().splitlines()]
    assert removed == 120
    assert sorted(one.offset for one in left) == [first + number for first in (0, 100, 200) for number in range(40)]
    assert {tuple(events_in(base64.b64decode(one.value))) for one in left} == {("kept",)}
    assert [one.name for one in path.parent.iterdir()] == ["orders.jsonl"]


def test_a_file_that_cannot_be_written_is_an_error_with_a_name(tmp_path):
    (tmp_path / "letters").write_text("")
    with pytest.raises(StorageError, match="letters"):
        append_letters(tmp_path / "letters" / "orders.jsonl", [letter(1, "a")])
