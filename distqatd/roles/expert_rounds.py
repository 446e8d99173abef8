"""An expert's part in outer steps: who counts, when it joins, what it does with the mean."""

import asyncio
from collections.abc import Callable

from distqatd.averaging.averager import Averager
from distqatd.averaging.roster import Member
from distqatd.base.errors import DistqatError
from distqatd.base.ids import ExpertUid
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Contribution
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.context import Context
from distqatd.roles.round_in_flight import RoundInFlight
from distqatd.roles.round_taking import RoundTaking
from distqatd.roles.state_loader import StateLoader
from distqatd.swarm.placement import Slot
from distqatd.swarm.view import StageView

IDLE_POLL_S = 0.1
"""While others wait for us in a round, we look this often whether our trainer has left."""


class ExpertRounds:
    """Takes one serving expert through its outer steps.

    Attributes:
        is_running: whether it is in a round.
        ended: set whenever a round has ended here; whoever waits for that clears it.
    """

    def __init__(
        self,
        context: Context,
        averager: Averager,
        executor: Executor,
        loader: StateLoader,
        hosted: HostedExpert,
        slot: Slot,
        publish: Callable[[], None],
    ) -> None:
        """Take part for `hosted` in `slot`; `publish` tells the swarm where it stands."""
        self._context = context
        self._executor = executor
        self._taking = RoundTaking(context, averager, executor, loader, hosted, slot)
        self._flight: RoundInFlight | None = None
        self._hosted = hosted
        self._slot = slot
        self._publish = publish
        self._heard_of = 0
        self.is_running = False
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Take part in a round whenever one is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._hosted.round_due.wait()
                await self._land()
                await self._take_part(tasks)

    async def _take_part(self, tasks: asyncio.TaskGroup) -> None:
        hosted = self._hosted
        was_at = hosted.expert.outer_step
        try:
            async with hosted.pause():
                await self._round(tasks)
        except DistqatError as error:
            self._context.events.emit(
                "round.failed", degraded=True, uid=hosted.uid, error=str(error)
            )
        finally:
            if self._flight is None:
                self.is_running = False
                self.ended.set()
        self._follow(was_at)
        self._publish()

    def _follow(self, was_at: int) -> None:
        if was_at < self._hosted.expert.outer_step < self._heard_of:
            # The others opened, and perhaps ended, their next round while we took over the
            # state before it: nobody tells us again.
            self._hosted.round_due.set()

    async def _land(self) -> None:
        """End a round that steps go on beside, before the next one begins."""
        if self._flight is not None:
            await self._flight.end()
            self._flight = None

    # --- who counts

    def roster(self) -> tuple[Member, ...]:
        """Return the members of the stage, ourselves included, as known now.

        One that drains is a member until it is gone: its samples count.
        """
        expert = self._hosted.expert
        own = Member(
            self._slot.uid,
            self._context.peer_id,
            expert.outer_step,
            expert.anchor_digest,
            bool(self._context.addresses()),
        )
        others = (
            Member(
                e.uid,
                e.peer_id,
                e.record.outer_step,
                e.record.anchor_digest,
                bool(e.record.addresses),
            )
            for e in self._context.directory.view.stage(self._slot.stage).members
            if e.uid != self._slot.uid
        )
        return (own, *others)

    async def refresh(self) -> None:
        """Read anew who serves our stage."""
        await self._context.directory.refresh_stage(self._slot.stage)

    def look(self, stage: StageView) -> None:
        """Have a round begin if the stage shows that we were left behind or outvoted."""
        if self.is_running:
            return  # it finds out by itself
        outer_step = self._hosted.expert.outer_step
        is_behind = any(e.record.outer_step > outer_step for e in stage.members)
        if is_behind or self._taking.outvoted_by(stage):
            self._hosted.round_due.set()

    # --- when it joins

    def opened(self, _: ExpertUid, outer_step: int, seconds_left: float) -> None:
        """Join a round that others opened: at once when idle, else shortly before it closes.

        If it is past our next one we were left behind, and what we train is of no use.
        """
        hosted, self._heard_of = self._hosted, outer_step
        if outer_step <= hosted.expert.outer_step or self.is_running:
            return
        if outer_step > hosted.expert.outer_step + 1:
            hosted.round_due.set()
            return
        margin_s = min(2.0, seconds_left / 4)
        now = asyncio.get_running_loop().time()
        self._join_when_idle(outer_step, now + max(0.0, seconds_left - margin_s))

    def _join_when_idle(self, outer_step: int, latest_at: float) -> None:
        """Join once no trainer uses us, or at `latest_at`.

        A trainer may leave any time, as when we drain: the others should not wait longer then.
        Nor while it waits for a round of another stage: that one may wait for a pipeline which
        waits for this round, where a spare that stands in is not at the same step as its route.
        """
        hosted, loop = self._hosted, asyncio.get_running_loop()
        left_s = latest_at - loop.time()
        is_due = self.is_running or hosted.round_due.is_set()
        if outer_step != hosted.expert.outer_step + 1 or is_due:
            return
        if hosted.is_unused or left_s <= 0:
            hosted.round_due.set()
        else:
            loop.call_later(min(left_s, IDLE_POLL_S), self._join_when_idle, outer_step, latest_at)

    # --- one round

    async def _round(self, tasks: asyncio.TaskGroup) -> None:
        """Begin an outer step; it is over when this returns, unless steps go on meanwhile."""
        expert, hosted, loop = self._hosted.expert, self._hosted, asyncio.get_running_loop()
        overlap = hosted.overlap_steps
        self.is_running = True
        if not overlap:
            began, taken = loop.time(), await self._taking.check()
            if taken is None:
                taken = await self._taking.take(await self._executor.run(expert.contribution))
                self._taking.tell(taken, loop.time() - began)
            if taken.repair is not None:
                await taken.repair()
            return
        mine = await self._executor.run(lambda: expert.contribution(goes_on=True))
        hosted.take_off(overlap)
        self._flight = RoundInFlight(self._context, self._executor, hosted, self._taking)
        tasks.create_task(self._fly(self._flight, mine), name="expert.flight")

    async def _fly(self, flight: RoundInFlight, mine: Contribution) -> None:
        """Take a round that steps go on beside, however it ends, and tell where we stand."""
        was_at = self._hosted.expert.outer_step
        try:
            await flight.take(mine)
        finally:
            self.is_running = False
            self.ended.set()
        self._publish()
        await flight.take_over()
        self._follow(was_at)
        self._publish()
