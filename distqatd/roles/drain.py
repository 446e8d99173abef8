"""An expert's way out: no new steps, the next outer step if it has samples, then gone."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.context import Context
from distqatd.roles.expert_rounds import ExpertRounds

POLL_S = 0.1
"""A draining expert is looked at this often, seconds."""

CALL_AFTER = 0.5
"""Once so much of the deadline is over, an expert with samples calls a round itself: where nobody
trains any more, none comes."""

LINGER_S = 1.5
"""It stays so long after its last session: a trainer may have been sent here just before."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a drain, a resume or a reassign ended.

    Attributes:
        is_done: whether the expert left, serves again, or serves the other stage.
        reason: why, with the values that mattered.
        num_dropped: samples it had trained that no outer step took.
        num_cut: sessions of trainers that were still open and were cut: 0 or 1.
        seconds: how long it took.
    """

    is_done: bool
    reason: str
    num_dropped: int = 0
    num_cut: int = 0
    seconds: float = 0.0


class Drain:
    """One drain of one expert; `cancel` takes it back."""

    def __init__(self, context: Context, hosted: HostedExpert, rounds: ExpertRounds) -> None:
        self._context = context
        self._hosted = hosted
        self._rounds = rounds
        self._ends_at = 0.0
        self._calls_at = 0.0
        self._busy_at = 0.0
        self.is_cancelled = False

    def cancel(self) -> None:
        """Have the expert stay."""
        self.is_cancelled = True

    def hurry(self, deadline_s: float) -> None:
        """End in `deadline_s` seconds at the latest."""
        now = asyncio.get_running_loop().time()
        self._ends_at = min(self._ends_at, now + deadline_s)
        self._calls_at = min(self._calls_at, now + CALL_AFTER * deadline_s)

    async def run(self, deadline_s: float, reason: str) -> Outcome:
        """Wait until nothing holds the expert here any more, `deadline_s` seconds at most."""
        loop, hosted, events = asyncio.get_running_loop(), self._hosted, self._context.events
        began = loop.time()
        self._ends_at, self._busy_at = began + deadline_s, began
        self._calls_at = began + CALL_AFTER * deadline_s
        events.emit("expert.draining", uid=hosted.uid, reason=reason, deadline_s=deadline_s)
        while not self.is_cancelled and not self._is_free() and loop.time() < self._ends_at:
            await self._wait()
            await self._bring_samples()
        seconds = loop.time() - began
        if self.is_cancelled:
            events.emit("expert.resumed", uid=hosted.uid)
            return Outcome(is_done=False, reason="it was resumed", seconds=seconds)
        return self._tell(seconds)

    def _is_free(self) -> bool:
        """Return whether no trainer and no round holds the expert, and no samples are left."""
        now = asyncio.get_running_loop().time()
        if self._hosted.session is not None:
            self._busy_at = now
        has_lingered = now - self._busy_at >= LINGER_S
        is_in_round = self._rounds.is_running
        return has_lingered and not is_in_round and not self._hosted.expert.samples_since_anchor

    async def _wait(self) -> None:
        """Wait a moment, or until a round ends: before the next one begins is a time to leave."""
        self._rounds.ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._rounds.ended.wait()

    async def _bring_samples(self) -> None:
        """Call a round for what the expert has trained, if it is the only replica.

        With others it waits for their next round, as long as it can: to call one early spends an
        outer step.
        """
        hosted = self._hosted
        is_busy = hosted.session is not None or hosted.round_due.is_set()
        if is_busy or not hosted.expert.samples_since_anchor:
            return
        is_late = asyncio.get_running_loop().time() >= self._calls_at
        if is_late or await self._is_alone():
            hosted.round_due.set()

    async def _is_alone(self) -> bool:
        if len(self._rounds.roster()) > 1:
            return False
        await self._rounds.refresh()
        return len(self._rounds.roster()) == 1

    def _tell(self, seconds: float) -> Outcome:
        hosted = self._hosted
        num_dropped = hosted.expert.samples_since_anchor
        num_cut = int(hosted.session is not None)
        left = f"left after {seconds:.1f} s"
        if num_dropped or num_cut:
            left += f": {num_dropped} samples dropped, {num_cut} sessions cut by the deadline"
        self._context.events.emit(
            "expert.drained",
            degraded=bool(num_dropped or num_cut),
            uid=hosted.uid,
            samples_dropped=num_dropped,
            sessions_cut=num_cut,
            seconds=round(seconds, 3),
        )
        return Outcome(
            is_done=True,
            reason=left,
            num_dropped=num_dropped,
            num_cut=num_cut,
            seconds=seconds,
        )
