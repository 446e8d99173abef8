"""The expert role: claim a slot, load its state, serve, leave in order, come back on request.

joining ──loaded──► serving ──drain──► draining ──free, or deadline──► drained
   ▲                   ▲                  │                               │
   │                   └───── resume ─────┘                               │
   └──────────────── resume, or reassign to another stage ────────────────┘
"""

import asyncio

from distqatd.base.errors import SwarmError
from distqatd.compute.expert import Expert, Snapshot
from distqatd.optim.inner import preload
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.claim import Claim
from distqatd.roles.context import Context
from distqatd.roles.drain import Drain
from distqatd.roles.drain import Outcome as Outcome
from distqatd.roles.expert_life import ExpertParts as ExpertParts
from distqatd.roles.expert_life import Life, build_hosted
from distqatd.roles.state_loader import StateLoader
from distqatd.swarm import records as r
from distqatd.swarm.placement import Slot

LOAD_S = 600.0
"""So long a reassign waits for the expert to serve its new stage, seconds."""


class ExpertRole:
    """One expert of this daemon; its orders come from the API, a directive or the rebalancer.

    Attributes:
        slot: where it serves, or is about to.
        last_reason: why it is there.
    """

    def __init__(self, context: Context, parts: ExpertParts, serial: int) -> None:
        self._context = context
        self._parts = parts
        self._serial = str(serial)
        self._claim = Claim(context, f"{serial}.0", parts.room)
        self._next: tuple[Slot, Claim] | None = None
        has_weights = context.config.model_pipeline.weights is None or parts.weights is not None
        self._loader = StateLoader(context, parts.executor, may_seed=has_weights)
        self._life: Life | None = None
        self._drain: Drain | None = None
        self._stage = ""
        self._ordered: str | None = None
        self._may_join = asyncio.Event()
        self._may_join.set()
        self._settled = asyncio.Event()
        self._kept: dict[str, Snapshot] = {}
        self._idle_state = r.JOINING
        self.slot: Slot | None = None
        self.last_reason = ""

    @property
    def hosted(self) -> HostedExpert | None:
        """Return the expert while it serves or drains."""
        return self._life.hosted if self._life is not None else None

    @property
    def state(self) -> str:
        """Return joining, serving, draining or drained."""
        return self._life.state if self._life is not None else self._idle_state

    async def run(self) -> None:
        """Join a stage and serve it until drained, and again when ordered to; until cancelled.

        Raises:
            SwarmError: another peer has our slot; run again, to claim another one.
        """
        self._context.tasks.spawn(self._preload(), name="expert.preload")
        while True:
            if not self._may_join.is_set():
                await self._stay_out()
            self._idle_state = r.JOINING
            slot = await self._settle()
            self.slot = slot
            hosted = await build_hosted(self._context, self._parts, slot)
            await self._loader.load(hosted.expert, slot)
            await self._restore(hosted.expert, slot)
            await self._claim.check(slot)
            if self._may_join.is_set():
                await self._live(slot, hosted)

    async def _preload(self) -> None:
        """Use the time that claiming a slot takes to get ready for building the stage."""
        await self._parts.executor.run(preload)

    async def _stay_out(self) -> None:
        """Wait, drained, until we are ordered to join."""
        self._drop_next()
        self._claim.withdraw()
        self._idle_state, self.slot = r.DRAINED, None
        self._settled.set()
        await self._may_join.wait()

    async def _live(self, slot: Slot, hosted: HostedExpert) -> None:
        life = Life(
            self._context, self._parts, self._loader, slot, hosted, self._claim, self._serial
        )
        self._life, self._stage, self._ordered = life, slot.stage, None
        self._idle_state = r.DRAINING
        try:
            await life.run(self._settled.set)
        finally:
            self._settled.clear()
            if life.is_alone():  # nobody can give it back to us
                self._kept[slot.stage] = hosted.expert.snapshot()
            self._life = None

    # --- joining

    def _new_claim(self) -> Claim:
        """Return a claim beside the one we have: an expert that moves claims while it serves."""
        other = f"{self._serial}.{int(self._claim.subkey.endswith('.0'))}"
        return Claim(self._context, other, self._parts.room)

    async def _settle(self) -> Slot:
        """Return the slot that was claimed for us, or claim one."""
        if self._next is not None:
            (slot, self._claim), self._next = self._next, None
            return slot
        self._claim.is_for_gap = False
        wanted = self._ordered or self._context.config.compute.stage
        async with self._parts.claims:
            slot, self.last_reason = await self._claim.settle(wanted)
        return slot

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next[1].withdraw()
            self._next = None

    async def _restore(self, expert: Expert, slot: Slot) -> None:
        """Take up the anchor with which we left the stage as its last replica, if it is newest."""
        kept = self._kept.pop(slot.stage, None)
        if kept is not None and kept.outer_step > expert.outer_step:
            await self._parts.executor.run(lambda: expert.load(kept))
            self._context.events.emit(
                "expert.state_kept", uid=slot.uid, outer_step=expert.outer_step
            )

    # --- orders

    async def drain(self, *, deadline_s: float, reason: str) -> Outcome:
        """Leave the stage without losing work, and stay out until `resume` or `reassign`.

        New steps go elsewhere, the open one is finished; what was trained since the last outer
        step is brought to the next one, if that comes before the deadline. A drain that is under
        way is hurried to this deadline.

        Args:
            deadline_s: seconds after which the expert leaves, whatever is lost.
            reason: for events and `distqatctl why`.
        """
        self._may_join.clear()
        life = self._life
        if life is None:
            return Outcome(is_done=True, reason=f"it did not serve: {self.state}")
        self._context.note("drain", life.slot.uid, reason)
        if self._drain is not None:
            self._drain.hurry(deadline_s)
            await life.gone.wait()
            return Outcome(is_done=True, reason="another drain was under way")
        outcome = await self._empty(life, deadline_s, reason)
        if outcome.is_done:
            await self._release(life)
        return outcome

    async def resume(self) -> Outcome:
        """Take a drain back: serve on, or join the stage again that was left."""
        if self._may_join.is_set() and self._drain is None:
            return Outcome(is_done=False, reason=f"it is not drained: {self.state}")
        self._may_join.set()
        if self._drain is not None:
            self._drain.cancel()
            return Outcome(is_done=True, reason="the drain is taken back")
        self._ordered = self._ordered or self._stage or None
        return Outcome(is_done=True, reason=f"it joins {self._ordered or 'the swarm'} again")

    async def reassign(
        self, stage: str, *, deadline_s: float, reason: str, only_gap: bool = False
    ) -> Outcome:
        """Serve another stage: claim a slot there, drain, load, serve.

        Args:
            stage: the stage to serve.
            deadline_s: for the drain, seconds.
            reason: for events and `distqatctl why`.
            only_gap: stay if somebody else serves or claims that stage first.

        Raises:
            SwarmError: there is no such stage, it has no free slot, or it is no gap any more.
        """
        life = self._life
        if life is not None and life.slot.stage == stage:
            return Outcome(is_done=True, reason=f"it serves {stage} already")
        if life is None:
            return await self._join(stage, reason)
        if self._drain is not None:
            return Outcome(is_done=False, reason="it drains; resume it first")
        claim = self._new_claim()
        claim.is_for_gap = only_gap
        claim.given_back = life.used_bytes()
        async with self._parts.claims:
            slot, why = await claim.settle(stage)
        if not self._is_free_to_move(life):
            claim.withdraw()
            return Outcome(is_done=False, reason=f"it is {self.state} by now")
        outcome = await self._empty(life, deadline_s, f"reassigned to {stage}: {reason}")
        if not outcome.is_done:
            claim.withdraw()
            return outcome
        self._context.note("move", slot.uid, f"from {life.slot.uid}: {reason}")
        self.last_reason = f"{why}; {reason}"
        self._next, self._ordered = (slot, claim), life.slot.stage if only_gap else stage
        await self._release(life)
        return await self._arrived(stage, outcome)

    async def _join(self, stage: str, reason: str) -> Outcome:
        """Have a drained expert join a stage."""
        if self._idle_state != r.DRAINED:
            return Outcome(is_done=False, reason=f"it is {self.state}; try again when it serves")
        if stage not in self._context.stage_names:
            names = ", ".join(self._context.stage_names)
            raise SwarmError(f"there is no stage {stage!r} in this run; it has {names}")
        self._context.note("move", stage, reason)
        self._ordered = stage
        self._settled.clear()
        self._may_join.set()
        return await self._arrived(stage, Outcome(is_done=True, reason="it was drained"))

    def _is_free_to_move(self, life: Life) -> bool:
        return self._life is life and self._drain is None and self._may_join.is_set()

    async def _empty(self, life: Life, deadline_s: float, reason: str) -> Outcome:
        """Drain the expert; it serves again if that is taken back or cancelled."""
        self._drain = Drain(self._context, life.hosted, life.rounds)
        life.turn(r.DRAINING)
        is_out = False
        try:
            outcome = await self._drain.run(deadline_s, reason)
            is_out = outcome.is_done
            return outcome
        finally:
            self._drain = None
            if not is_out and not life.gone.is_set():
                life.turn(r.SERVING)

    async def _release(self, life: Life) -> None:
        self._settled.clear()
        life.released.set()
        await life.gone.wait()

    async def _arrived(self, stage: str, outcome: Outcome) -> Outcome:
        """Wait until the expert serves, and say where."""
        try:
            async with asyncio.timeout(LOAD_S):
                await self._settled.wait()
        except TimeoutError:
            return Outcome(is_done=False, reason=f"{stage} was not loaded in {LOAD_S:.0f} s")
        slot = self.slot
        is_there = slot is not None and slot.stage == stage
        where = f"serves {slot.uid}" if slot is not None else "was drained meanwhile"
        return Outcome(is_there, where, outcome.num_dropped, outcome.num_cut, outcome.seconds)
