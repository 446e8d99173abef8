"""Await points: a machine can be struck right before the n-th piece of its code that runs.

A coroutine runs from one await to the next as one callback of the loop. Counting the callbacks of
a machine therefore numbers all places where a crash can find it, and none is missed.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.sim.loop import LIFE, Life, VirtualLoop

PATIENCE_S = 3.0
"""A machine that does not come so far is struck after this many virtual seconds."""


class Points:
    """Counts the callbacks of machines' lives, for as long as somebody waits for one."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._armed: dict[Life, list[tuple[int, Callable[[], None]]]] = {}
        self.counts: dict[Life, int] = {}

    async def strike(self, life: Life, number: int, strike: Callable[[], None]) -> None:
        """Call `strike` right before the life's `number`-th callback from now, and return then."""
        done = asyncio.Event()

        def once() -> None:
            if not done.is_set():
                done.set()
                strike()

        if number > 0 and life.alive:
            self._arm(life, number, once)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await done.wait()
            except TimeoutError:
                pass  # it has less to do than that
            finally:
                self._disarm(life)
        once()

    def _arm(self, life: Life, number: int, strike: Callable[[], None]) -> None:
        self.counts[life] = 0
        self._armed.setdefault(life, []).append((number, strike))
        self._loop.call_soon = self._counting  # type: ignore[method-assign]

    def _disarm(self, life: Life) -> None:
        self._armed.pop(life, None)
        if not self._armed:
            self._loop.__dict__.pop("call_soon", None)

    def _counting(self, callback: Any, *args: Any, context: Any = None) -> Any:
        life = None if context is None else context.get(LIFE)
        plain = VirtualLoop.call_soon
        if life in self._armed:
            self.counts[life] += 1
            for number, strike in self._armed[life]:
                if number == self.counts[life]:
                    plain(self._loop, strike)
        return plain(self._loop, callback, *args, context=context)
