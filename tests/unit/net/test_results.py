import asyncio

import pytest

from distqatd.net.results import ResultWindow, ResultWindows
from distqatd.wire.messages import Failure, RequestHead
from distqatd.wire.payload import Message
from tests.support.links import message_of


def head(sequence, acked, *, is_retry=False):
    return RequestHead("m", 1000, sequence, acked, (), is_retry)


class Work:
    """Counts its runs; waits for `gate` if there is one."""

    def __init__(self, outcome=None, gate=None):
        self.runs = 0
        self.outcome = outcome or Message({"n": 1})
        self.gate = gate

    async def __call__(self):
        self.runs += 1
        if self.gate is not None:
            await self.gate.wait()
        return self.outcome


async def test_a_repeated_request_gets_the_same_answer_without_running():
    window, work = ResultWindow(), Work()
    first = await window.once(head(1, 1), work)
    assert await window.once(head(1, 1), work) is first
    assert work.runs == 1


async def test_a_failure_is_an_answer_too():
    window, work = ResultWindow(), Work(Failure("closed", "x"))
    assert await window.once(head(1, 1), work) == await window.once(head(1, 1), work)
    assert work.runs == 1


async def test_a_repetition_waits_for_the_run_that_is_on():
    window, work = ResultWindow(), Work(gate=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(window.once(head(1, 1), work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.gate.set()
    assert work.runs == 1
    assert len({id(task.result()) for task in tasks}) == 1


async def test_a_run_that_was_cancelled_does_not_count():
    window, work = ResultWindow(), Work(gate=asyncio.Event())
    async with asyncio.TaskGroup() as group:
        first = group.create_task(window.once(head(1, 1), work))
        await asyncio.sleep(0)
        second = group.create_task(window.once(head(1, 1), work))
        await asyncio.sleep(0)
        first.cancel()
        work.gate.set()
    assert work.runs == 2
    assert second.result() is work.outcome


async def test_answers_that_the_caller_has_are_dropped():
    window, work = ResultWindow(), Work()
    await window.once(head(1, 1), work)
    await window.once(head(2, 2), work)
    assert list(window._results) == [2]


@pytest.mark.parametrize(
    "window", [ResultWindow(max_results=2), ResultWindow(max_bytes=25)], ids=["number", "bytes"]
)
async def test_when_full_the_oldest_goes_and_asking_for_it_again_fails(window):
    work = Work(message_of(bytes(10)))
    for sequence in (1, 2, 3):
        await window.once(head(sequence, 1), work)
    assert await window.once(head(3, 1), work) is work.outcome
    gone = await window.once(head(1, 1, is_retry=True), work)
    assert gone.code == "closed"
    assert work.runs == 3


async def test_a_request_that_comes_late_for_the_first_time_is_run():
    window, work = ResultWindow(max_results=1), Work()
    for sequence in (5, 6, 7, 2):
        await window.once(head(sequence, 1), work)
    assert work.runs == 4


def test_a_restarted_caller_begins_anew_and_callers_are_bounded(monkeypatch):
    monkeypatch.setattr("distqatd.net.results._MAX_CALLERS", 2)
    windows = ResultWindows()
    first = windows.of("a", 1)
    assert windows.of("a", 1) is first
    assert windows.of("a", 2) is not first
    windows.of("b", 1)
    windows.of("c", 1)
    assert list(windows._windows) == ["b", "c"]
