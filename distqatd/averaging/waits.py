"""Two ways to wait that asyncio lacks: for work unless something else happens, and for a change."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until(work: Coroutine[Any, Any, T], stop: "asyncio.Future[Any]") -> T | None:
    """Return what `work` returns, or cancel it and return None as soon as `stop` is done.

    An error of `work` is raised as it is; `stop` is only looked at, never cancelled.
    """
    failure: list[BaseException] = []

    async def guarded() -> T | None:
        try:
            return await work
        except Exception as error:  # noqa: BLE001  raised again below, out of the group
            failure.append(error)
            return None

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(guarded())

        def give_up(_: "asyncio.Future[Any]") -> None:
            task.cancel()

        stop.add_done_callback(give_up)
        task.add_done_callback(lambda _: stop.remove_done_callback(give_up))
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began
    if failure:
        raise failure[0]
    return None if task.cancelled() else task.result()


async def wait_until(event: asyncio.Event, deadline: float) -> bool:
    """Wait for an event until the loop's time is `deadline`; return whether it came."""
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True
