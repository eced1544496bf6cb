"""Questions that come close together are answered together; each asker gets its own answer, or its own error."""

import asyncio
from contextvars import ContextVar

import pytest

from featurestore.server.batching import RequestBatcher

MOST = 10
NAME = ContextVar("name", default="nobody")


class Answering:
    """Doubles numbers, and keeps what was asked together."""

    def __init__(self):
        self.together = []
        self.batcher = RequestBatcher(self.answer, kind=type, size=int, max_size=MOST)

    def answer(self, numbers):
        self.together.append(list(numbers))
        return [2 * number for number in numbers]


@pytest.fixture
def answering():
    return Answering()


def test_who_asks_in_one_turn_is_answered_together_each_its_own(answering):
    async def run():
        return await asyncio.gather(*map(answering.batcher.ask, (1, 2, 3)))

    assert asyncio.run(run()) == [2, 4, 6]
    assert answering.together == [[1, 2, 3]]


def test_who_comes_while_others_still_come_joins_them(answering):
    async def later(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return await answering.batcher.ask(1)

    async def run():
        return await asyncio.gather(*map(later, (0, 1, 2, 6)))

    assert asyncio.run(run()) == [2, 2, 2, 2]
    assert answering.together == [[1, 1, 1], [1]], "the last one came after a turn that had brought nobody"


def test_no_more_are_answered_together_than_may_be_and_one_always_is(answering):
    async def run():
        return await asyncio.gather(*map(answering.batcher.ask, (4, 4, 4, MOST + 5, 1, 1)))

    assert asyncio.run(run()) == [8, 8, 8, 2 * (MOST + 5), 2, 2]
    assert answering.together == [[4, 4, 1, 1], [4], [MOST + 5]]


def test_only_those_who_ask_likewise_are_answered_together(answering):
    async def run():
        return await asyncio.gather(*map(answering.batcher.ask, (1, 2.0, 3, 1.0, 2)))

    assert asyncio.run(run()) == [2, 4.0, 6, 2.0, 4]
    assert answering.together == [[1, 3, 2], [2.0, 1.0]]


def test_nobody_waits_for_more_once_there_are_enough(answering):
    async def run():
        first = [asyncio.ensure_future(answering.batcher.ask(5)) for _ in range(2)]
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(answering.batcher.ask(1))
        return await asyncio.gather(*first, behind)

    asyncio.run(run())
    assert answering.together[0] == [5, 5]


def test_an_error_is_its_askers_alone():
    def answer(numbers):
        return [ValueError(number) if number == 2 else number for number in numbers]

    batcher = RequestBatcher(answer, kind=type, size=lambda _: 1, max_size=MOST)

    async def run():
        return await asyncio.gather(*map(batcher.ask, (1, 2, 3)), return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert (first, third) == (1, 3)
    assert isinstance(second, ValueError)


def test_what_keeps_all_from_an_answer_is_told_to_all():
    def answer(_):
        raise RuntimeError("down")

    batcher = RequestBatcher(answer, kind=type, size=lambda _: 1, max_size=MOST)

    async def run():
        return await asyncio.gather(*map(batcher.ask, (1, 2)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(run())] == ["down", "down"]


def test_who_goes_away_takes_no_answer_from_the_others(answering):
    async def run():
        asked = [asyncio.ensure_future(answering.batcher.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        asked[0].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    gone, answered = asyncio.run(run())
    assert isinstance(gone, asyncio.CancelledError)
    assert answered == 4


def test_what_is_done_for_all_is_done_in_nobodys_name():
    said = []

    def answer(numbers):
        said.append(NAME.get())
        return numbers

    batcher = RequestBatcher(answer, kind=type, size=lambda _: 1, max_size=MOST)

    async def ask():
        NAME.set("somebody")
        return await batcher.ask(1)

    asyncio.run(ask())
    assert said == ["nobody"]


def test_a_loop_that_was_broken_off_leaves_nothing_to_the_next(answering):
    loop = asyncio.new_event_loop()
    asking = answering.batcher.ask(1)

    async def broken_off():
        asking.send(None)
        loop.stop()

    loop.run_until_complete(broken_off())
    loop.close()
    asking.close()
    assert answering.together == []

    async def run():
        return await asyncio.wait_for(answering.batcher.ask(3), 5)

    assert asyncio.run(run()) == 6
    assert answering.together == [[3]]
