"""A compute executor without threads, for virtual time: work runs on the loop, one at a time."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from distqatd.base.errors import ComputeError

T = TypeVar("T")

_Job = tuple[int, int, Callable[[], Any], "asyncio.Future[Any]"]


class InlineExecutor:
    """Implements `distqatd.compute.executor.Executor` in the order of the loop.

    `cost_s` is how much virtual time each piece of work takes, `costs` says otherwise for work of
    some priorities; a result is known to the caller only after that, and nothing else begins
    before. Like the real one, it skips work whose caller was cancelled before it began, and
    finishes work that has begun.
    """

    def __init__(self, cost_s: float = 0.0) -> None:
        self.cost_s = cost_s
        self.costs: dict[int, float] = {}
        self.num_run = 0
        self._sequence = itertools.count()
        self._jobs: list[_Job] = []
        self._busy = False
        self._closed = False

    async def run(self, work: Callable[[], T], *, priority: int = 0) -> T:
        """Return `work()`; lower priorities go first, equal ones in the order of the calls.

        Raises:
            ComputeError: the executor is closed, or was closed before the work began.
        """
        if self._closed:
            raise ComputeError("the compute thread is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        heapq.heappush(self._jobs, (priority, next(self._sequence), work, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._begin)
        return await future

    def close(self) -> bool:
        """Take no more work; what waits fails with ComputeError."""
        self._closed = True
        for *_, future in self._jobs:
            if not future.done():
                future.set_exception(ComputeError("the compute thread was closed"))
        self._jobs.clear()
        return True

    def _begin(self) -> None:
        """Run the first piece of work whose caller still waits."""
        while self._jobs:
            priority, _, work, future = heapq.heappop(self._jobs)
            if not future.done():
                self.num_run += 1
                cost_s = self.costs.get(priority, self.cost_s)
                asyncio.get_running_loop().call_later(cost_s, self._end, work, future)
                return
        self._busy = False

    def _end(self, work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        try:
            result = work()
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        self._begin()
