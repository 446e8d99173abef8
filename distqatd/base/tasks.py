"""Every task has an owner: a Supervisor is the only way to start one outside a TaskGroup."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from distqatd.base.backoff import Backoff
from distqatd.base.errors import DistqatError
from distqatd.base.rng import Rng

log = logging.getLogger(__name__)


class Supervisor:
    """A scope that owns tasks: all of them have ended when the `async with` block is left.

    `spawn` runs something once; an error we know (DistqatError) ends that task alone and is
    logged, any other error is a bug and ends the scope. `keep` runs something for ever and
    starts it again, after a backoff, when it fails. Leaving the block cancels what still runs.
    """

    def __init__(self, name: str, rng: Rng, backoff: Backoff | None = None) -> None:
        self._name = name
        self._rng = rng
        self._backoff = backoff or Backoff()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, traceback)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` once inside this scope."""
        task = self._group.create_task(self._once(work, name), name=f"{self._name}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled before it began, the task has never touched the work: nobody else would.
        task.add_done_callback(lambda _: work.close())
        return task

    def keep(self, start: Callable[[], Awaitable[None]], *, name: str) -> asyncio.Task[None]:
        """Run `start()` now and again whenever it ends with a DistqatError or an OSError."""
        return self.spawn(self._again(start, name), name=name)

    async def _once(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except DistqatError as error:
            log.warning("task.failed", extra={"task": f"{self._name}.{name}", "error": str(error)})

    async def _again(self, start: Callable[[], Awaitable[None]], name: str) -> None:
        num_failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await start()
            except (DistqatError, OSError) as error:
                ran_s = asyncio.get_running_loop().time() - began
                num_failures = 1 if ran_s > self._backoff.cap_s else num_failures + 1
                delay_s = self._backoff.delay_s(num_failures, self._rng)
                fields = {"task": f"{self._name}.{name}", "error": str(error), "delay_s": delay_s}
                log.warning("task.restarting", extra=fields)
            await asyncio.sleep(delay_s)
