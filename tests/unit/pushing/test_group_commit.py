import threading

import pytest

from featurestore.online.pushing.group_commit import GroupCommit


class Held:
    """Commits lists of numbers, the first of them only once it is let go."""

    def __init__(self, *, most=100):
        self.began, self.go = threading.Event(), threading.Event()
        self.commits = []
        self.together = GroupCommit(self._commit, size=len, most=most)

    def _commit(self, parts):
        self.began.set()
        self.go.wait(10)
        self.commits.append(list(parts))
        if any(-1 in part for part in parts):
            raise ValueError("minus one")
        return [sum(part) for part in parts]

    def results(self, *parts):
        """Return what each part gave or raised, all but the first given while the first is committed."""
        found = [None] * len(parts)

        def commit(place):
            try:
                found[place] = self.together.commit(parts[place])
            except ValueError as error:
                found[place] = str(error)

        threads = [threading.Thread(target=commit, args=(place,)) for place in range(len(parts))]
        for place, thread in enumerate(threads):
            thread.start()
            assert self.began.wait(10)
            while len(self.together._pending) < place:
                pass
        self.go.set()
        for thread in threads:
            thread.join(10)
        return found


def test_what_comes_during_a_commit_leaves_with_the_next_in_its_order():
    held = Held()
    assert held.results([1], [2], [3, 4], [5]) == [1, 2, 7, 5]
    assert held.commits == [[[1]], [[2], [3, 4], [5]]]


def test_a_commit_takes_no_more_than_it_may_but_one_always_goes():
    held = Held(most=2)
    assert held.results([1, 1, 1], [2], [3], [4, 4, 4], [5]) == [3, 2, 3, 12, 5]
    assert held.commits == [[[1, 1, 1]], [[2], [3]], [[4, 4, 4]], [[5]]]


def test_a_failure_is_that_of_all_who_left_together_and_of_nobody_else():
    held = Held(most=2)
    assert held.results([1], [-1], [2], [3], [4]) == [1, "minus one", "minus one", 3, 4]


def test_alone_it_is_a_call():
    assert GroupCommit(lambda parts: [f"{part}!" for part in parts], size=len, most=1).commit("now") == "now!"
    with pytest.raises(ZeroDivisionError):
        GroupCommit(lambda _: 1 // 0, size=len, most=1).commit("now")
