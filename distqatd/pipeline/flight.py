"""How many microbatches an expert has between forward and backward: what its memory is short of."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distqatd.base.decision import Decision

MAX_ALONE = 3
"""A microbatch that has failed alone so often in a row will not fit the next time either."""


class InFlight:
    """A limit that shrinks when the device runs out of memory.

    Attributes:
        limit: microbatches at once, at most.
        used: microbatches now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_alone = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, first come first served, and hold it."""
        await self._take()
        try:
            yield
        finally:
            self._give_back()

    def shrink(self) -> Decision[bool]:
        """Take note that memory ran out with so many in flight; decide whether to go on.

        Returns:
            False if even one microbatch at a time does not fit.
        """
        before = max(1, min(self.limit, self.used))
        if before > 1:
            self.limit = before // 2
            reason = (
                f"memory ran out with {before} microbatches in flight; now {self.limit} at most"
            )
            return Decision(value=True, reason=reason)
        self.limit = 1
        self._num_alone += 1
        reason = f"memory ran out with one microbatch alone, {self._num_alone} times in a row"
        return Decision(value=self._num_alone < MAX_ALONE, reason=reason)

    def fits(self) -> None:
        """Take note that a step went well."""
        self._num_alone = 0

    async def _take(self) -> None:
        if self.used < self.limit and not any(not place.done() for place in self._waiting):
            self.used += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._give_back()  # it was ours already
            raise

    def _give_back(self) -> None:
        self.used -= 1
        self._wake()

    def _wake(self) -> None:
        """Give free slots to those who wait longest."""
        while self._waiting and self.used < self.limit:
            place = self._waiting.popleft()
            if not place.cancelled():
                self.used += 1
                place.set_result(None)
