"""Between steps and rounds: no round while a step is open, no step while a round runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from distqatd.base.errors import PeerTimeout
from distqatd.base.ids import ExpertUid


class Gate:
    """One expert's gate.

    A round is due after as many applied steps as `inner_steps` says at that moment; from then on
    no new step starts, until the round is over, however it ended. Or steps go on beside it, so many
    as `lands_after` says: then no new step starts until it was taken over.

    Attributes:
        is_paused: a round is due or running, or has to be taken over.
        round_due: set when it is; whoever runs rounds waits for it.
        landing_due: set when a round that steps went on beside has to be taken over.
        lands_after: steps after the last round began; None: steps do not go on beside one.
        num_applied: steps since the last one.
    """

    def __init__(self, uid: ExpertUid, inner_steps: Callable[[], int], wait_s: float) -> None:
        """Open the gate.

        Args:
            uid: the expert, for messages.
            inner_steps: returns how many applied steps there are from round to round now.
            wait_s: how long anything here is waited for at most.
        """
        self.is_paused = False
        self.round_due = asyncio.Event()
        self.landing_due = asyncio.Event()
        self.lands_after: int | None = None
        self.num_applied = 0
        self._uid = uid
        self._inner_steps = inner_steps
        self._wait_s = wait_s
        self._changed = asyncio.Condition()

    @property
    def steps_to_round(self) -> int:
        """Return how many applied steps there are until a round holds back the next one."""
        steps = self._inner_steps()
        if self.lands_after is not None:
            steps = min(steps, self.lands_after)
        return steps - self.num_applied

    async def changed(self) -> None:
        """Close the gate if a round is due, and have all who wait here look again."""
        if self.steps_to_round <= 0 and not self.is_paused:
            self.is_paused = True
            due = self.round_due if self.lands_after is None else self.landing_due
            due.set()
        async with self._changed:
            self._changed.notify_all()

    async def until(self, predicate: Callable[[], bool], awaited: str) -> None:
        """Wait until `predicate` holds; it is looked at after every `changed`.

        Raises:
            PeerTimeout: it did not in time; `awaited` says what.
        """
        if predicate():
            return
        async with self._deadline(awaited), self._changed:
            await self._changed.wait_for(predicate)

    @asynccontextmanager
    async def pause(self, until_idle: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Hold back new steps, wait until none is open; let steps start again afterwards.

        Raises:
            PeerTimeout: the open step did not end in time.
        """
        self.is_paused = True
        try:
            async with self._deadline("the open step to end before the round"):
                await until_idle()
            yield
        finally:
            self.is_paused = False
            self.round_due.clear()
            self.num_applied = 0
            await self.changed()

    @asynccontextmanager
    async def land(self, until_idle: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Hold back new steps like `pause`, to take over a round that steps went on beside.

        Raises:
            PeerTimeout: the open step did not end in time.
        """
        self.is_paused = True
        try:
            async with self._deadline("the open step to end before a round is taken over"):
                await until_idle()
            yield
        finally:
            self.is_paused, self.lands_after = False, None
            self.landing_due.clear()
            await self.changed()

    @asynccontextmanager
    async def _deadline(self, awaited: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._wait_s):
                yield
        except TimeoutError:
            message = f"{self._uid} waited {self._wait_s:.0f} s for {awaited}"
            raise PeerTimeout(message) from None
