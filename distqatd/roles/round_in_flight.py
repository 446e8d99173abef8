"""A round that inner steps go on beside [source: Streaming DiLoCo, arXiv:2501.18512, section 2.2].

    steps        ... | contribution | 1 | 2 | ... | overlap | take over | ...
    round             ready, exchange, vote, commit: the anchor is the new one from then on

The anchor, its digest and the book of batches follow the round as ever, so that others see nothing
of the overlap. Only this replica's parameters follow later, after as many steps at every replica.
If the round is later than that, steps wait for it.
"""

import asyncio

from distqatd.base.errors import DistqatError
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Contribution
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.context import Context
from distqatd.roles.round_taking import RoundTaking, Taken


class RoundInFlight:
    """One round, from the contribution to where the expert has taken it over."""

    def __init__(
        self, context: Context, executor: Executor, hosted: HostedExpert, taking: RoundTaking
    ) -> None:
        self._context = context
        self._executor = executor
        self._hosted = hosted
        self._taking = taking
        self._taken = Taken()
        self._has_ended, self._has_landed = asyncio.Event(), asyncio.Event()
        self._due_at: float | None = None

    async def take(self, contribution: Contribution) -> None:
        """Take the round; say so if steps come to wait for it."""
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._tell_late(contribution.outer_step + 1))
            try:
                taken = await self._taking.check()
                self._taken = taken or await self._taking.take(contribution)
            except DistqatError as error:
                self._tell_failed(error)
            finally:
                watch.cancel()
        self._has_ended.set()

    async def take_over(self) -> None:
        """Take the round over when its steps are done, or at once if it was not committed."""
        try:
            if self._taken.committed is not None and self._taken.repair is None:
                await self._hosted.landing_due.wait()
            await self._land()
        except DistqatError as error:
            self._tell_failed(error)
        finally:
            self._has_landed.set()

    async def end(self) -> None:
        """Wait until the round has ended, and have it taken over at once."""
        await self._has_ended.wait()
        if not self._has_landed.is_set():
            self._hosted.landing_due.set()
            await self._has_landed.wait()

    async def _land(self) -> None:
        loop, expert, taken = asyncio.get_running_loop(), self._hosted.expert, self._taken
        if self._due_at is None:
            self._due_at = loop.time()
        async with self._hosted.land():
            if taken.repair is not None:
                await taken.repair()
            else:
                await self._executor.run(expert.take_over)
        self._taking.tell(taken, loop.time() - self._due_at)

    async def _tell_late(self, outer_step: int) -> None:
        await self._hosted.landing_due.wait()
        self._due_at = asyncio.get_running_loop().time()
        self._context.events.emit(
            "round.late",
            degraded=True,
            uid=self._hosted.uid,
            outer_step=outer_step,
            now="inner steps wait for it",
        )

    def _tell_failed(self, error: DistqatError) -> None:
        uid = self._hosted.uid
        self._context.events.emit("round.failed", degraded=True, uid=uid, error=str(error))
