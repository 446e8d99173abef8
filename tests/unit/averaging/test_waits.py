"""Waiting for work unless something else happens."""

import asyncio

import pytest

from distqatd.averaging.waits import until, wait_until
from tests.support.averaging_swarm import on_virtual_time


async def nap(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


def test_work_that_ends_first_gives_its_result() -> None:
    async def scenario() -> None:
        stop = asyncio.get_running_loop().create_future()
        assert await until(nap(1.0, "done"), stop) == "done"
        assert not stop.done()

    on_virtual_time(scenario())


def test_work_is_cancelled_when_the_other_thing_happens_or_has_happened() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        stop = loop.create_future()
        loop.call_later(1.0, stop.set_result, None)
        began = loop.time()
        assert await until(nap(9.0, "done"), stop) is None
        assert await until(nap(9.0, "done"), stop) is None
        assert loop.time() - began == pytest.approx(1.0)

    on_virtual_time(scenario())


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async def scenario() -> None:
        with pytest.raises(KeyError):
            await until(fail(), asyncio.get_running_loop().create_future())

    on_virtual_time(scenario())


def test_cancelling_the_waiter_cancels_the_work() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(until(nap(9.0, "done"), loop.create_future()))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_virtual_time(scenario())


def test_an_event_is_waited_for_until_a_deadline() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        assert not await wait_until(event, loop.time() + 1.0)
        loop.call_later(1.0, event.set)
        assert await wait_until(event, loop.time() + 5.0)

    on_virtual_time(scenario())
