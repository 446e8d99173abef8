"""Where an expert's state comes from: replicas that serve, or the seed if nobody has any."""

import asyncio
from collections.abc import Sequence

from distqatd.averaging.state import Donor, fetch_state
from distqatd.base.errors import DistqatError
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.roles.context import Context
from distqatd.swarm.placement import Slot


class StateLoader:
    """Brings experts of this daemon to the swarm's committed state."""

    def __init__(self, context: Context, executor: Executor) -> None:
        self._context = context
        self._executor = executor

    async def load(self, expert: Expert, slot: Slot) -> None:
        """Load the newest committed anchor of the stage, unless the expert has it."""
        context = self._context
        while True:
            stage = await context.directory.refresh_stage(slot.stage)
            others = [e for e in stage.serving if e.peer_id != context.peer_id]
            newest = max((e.record.outer_step for e in others), default=0)
            donors = [(e.uid, e.peer_id) for e in others if e.record.outer_step == newest]
            if newest <= expert.outer_step:
                return None
            try:
                return await self._fetch(expert, donors)
            except DistqatError as error:
                context.events.emit(
                    "expert.state_missing", degraded=True, uid=slot.uid, error=str(error)
                )
            await asyncio.sleep(1.0)

    async def resync(self, expert: Expert, holders: Sequence[Donor]) -> None:
        """Give up our anchor for the one that most replicas hold at this outer step.

        Raises:
            CheckpointError: no holder gave it.
        """
        context = self._context
        snapshot = await fetch_state(context.rpc, holders, context.events, self._executor)
        await self._executor.run(lambda: expert.load(snapshot))
        context.events.emit(
            "anchor.resynced", degraded=True, uid=expert.uid, outer_step=expert.outer_step
        )

    async def _fetch(self, expert: Expert, donors: Sequence[Donor]) -> None:
        context = self._context
        began = asyncio.get_running_loop().time()
        snapshot = await fetch_state(context.rpc, donors, context.events, self._executor)
        await self._executor.run(lambda: expert.load(snapshot))
        context.events.emit(
            "expert.state_loaded",
            uid=expert.uid,
            outer_step=expert.outer_step,
            donors=len(donors),
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )
