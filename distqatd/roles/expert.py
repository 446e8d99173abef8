"""The expert role: claim a slot, load its state, serve steps, take part in rounds, leave."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from distqatd.averaging.averager import Averager
from distqatd.averaging.digests import agree
from distqatd.averaging.roster import Member
from distqatd.averaging.state import Donors
from distqatd.base.errors import DistqatError, RoundAborted, SwarmError
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.data.tasks import Task
from distqatd.models.registry import build_stage
from distqatd.pipeline.host import StageHost
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.claim import Claim
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.state_loader import StateLoader
from distqatd.swarm import records as r
from distqatd.swarm.placement import Slot
from distqatd.swarm.view import StageView

REFRESH_S = 5.0
"""A serving expert publishes its speed, and looks whether it was left behind, this often."""


@dataclass(frozen=True, slots=True)
class ExpertParts:
    """What the experts of one daemon share.

    Attributes:
        claims: held while a slot is claimed, so that the daemon's experts claim one by one.
    """

    host: StageHost
    averager: Averager
    donors: Donors
    executor: Executor
    task: Task
    device: str
    timer: Callable[[], float]
    claims: asyncio.Lock


class ExpertRole:
    """One expert of this daemon, from its claim to its tombstone."""

    def __init__(self, context: Context, parts: ExpertParts, serial: int) -> None:
        self._context = context
        self._parts = parts
        self._serial = str(serial)
        self._claim = Claim(context, self._serial)
        self._loader = StateLoader(context, parts.executor)
        self._session = 0
        self.slot: Slot | None = None
        self.hosted: HostedExpert | None = None
        self.state = r.JOINING
        self.last_reason = ""

    async def run(self) -> None:
        """Join a stage and serve it until cancelled.

        Raises:
            SwarmError: another peer serves under our uid; run again, to claim another slot.
        """
        self.hosted, self.slot, self.state = None, None, r.JOINING
        async with self._parts.claims:
            slot, self.last_reason = await self._claim.settle()
        self.slot = slot
        hosted = await self._load(slot)
        self.hosted = hosted
        self._serve(hosted, slot)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._rounds(hosted, slot), name="expert.rounds")
                tasks.create_task(self._republish(hosted, slot), name="expert.republish")
        except* DistqatError as group:
            raise group.exceptions[0] from None
        finally:
            await self._leave(hosted, slot)

    # --- joining

    async def _load(self, slot: Slot) -> HostedExpert:
        """Build the stage, and bring it to the swarm's committed state if it has one."""
        context, parts = self._context, self._parts
        config = context.config
        stages = config.model_pipeline.pipeline
        stage_config = stages[context.stage_names.index(slot.stage)]

        def build() -> Expert:
            return Expert(
                slot.uid,
                build_stage(stage_config, config.seed, parts.device, stages),
                config.diloco.inner_optim,
                config.diloco.outer_optim,
                device=parts.device,
                task=parts.task,
                stash_bytes=config.compute.stash_bytes,
                seed=config.seed,
                is_first=slot.stage == context.stage_names[0],
                timer=parts.timer,
            )

        expert = await parts.executor.run(build)
        await self._loader.load(expert, slot)
        return HostedExpert(
            slot.uid,
            expert,
            parts.executor,
            context.rpc,
            config.diloco,
            config.model_pipeline,
            parts.task,
            config.compute.max_microbatches_in_flight,
        )

    def _serve(self, hosted: HostedExpert, slot: Slot) -> None:
        context, parts = self._context, self._parts
        parts.host.attach(hosted)
        parts.donors.attach(slot.uid, hosted.expert.snapshot)
        parts.averager.attach(slot.uid, slot.stage, lambda: self._roster(slot), self._round_opened)
        self.state = r.SERVING
        self._publish(hosted, slot)
        context.events.emit("expert.serving", uid=slot.uid, outer_step=hosted.expert.outer_step)

    # --- serving

    def _record(self, hosted: HostedExpert) -> r.ExpertRecord:
        expert = hosted.expert
        return r.ExpertRecord(
            uid=hosted.uid,
            state=self.state,
            addresses=self._context.addresses(),
            boot_epoch=self._context.boot_epoch,
            outer_step=expert.outer_step,
            inner_step=expert.inner_step,
            anchor_digest=expert.anchor_digest,
            samples_per_s=round(expert.samples_per_s, 1),
            session=hosted.session.id.fence if hosted.session else 0,
        )

    def _stage_key(self, slot: Slot) -> str:
        return r.stage_key(self._context.run_id, self._context.stage_names.index(slot.stage))

    def _publish(self, hosted: HostedExpert, slot: Slot) -> None:
        record = self._record(hosted)
        self._context.dht.announce(self._stage_key(slot), self._serial, record.pack(), ttl_s=TTL_S)

    async def _republish(self, hosted: HostedExpert, slot: Slot) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            # Not earlier: whoever reads the claims after the stage must find us in one of them.
            self._claim.withdraw()
            stage = await self._context.directory.refresh_stage(slot.stage)
            self._check_uid(stage, hosted.uid)
            is_behind = any(e.record.outer_step > hosted.expert.outer_step for e in stage.serving)
            if is_behind or self._outvoted_by(stage, hosted.expert):
                hosted.round_due.set()
            self._publish(hosted, slot)

    def _check_uid(self, stage: StageView, uid: ExpertUid) -> None:
        """Raise if a lower peer id serves under our uid: two joiners' claims have crossed."""
        for other in stage.serving:
            if other.uid == uid and other.peer_id < self._context.peer_id:
                raise SwarmError(f"{uid} is served by {other.peer_id} too; we take another slot")

    def _outvoted_by(self, stage: StageView, expert: Expert) -> list[tuple[ExpertUid, PeerId]]:
        """Return who holds the anchor that most have at our outer step, if it is not ours."""
        others = {
            e.uid: e
            for e in stage.serving
            if e.uid != expert.uid and e.record.outer_step == expert.outer_step
        }
        digests = {uid: e.record.anchor_digest for uid, e in others.items()}
        agreement = agree({**digests, expert.uid: expert.anchor_digest}, ())
        if expert.uid in agreement.holders:
            return []
        return [(uid, others[uid].peer_id) for uid in agreement.holders]

    def _roster(self, slot: Slot) -> tuple[Member, ...]:
        """Return the serving experts of the stage, ourselves included, as known now."""
        hosted = self.hosted
        if hosted is None:
            return ()
        me = Member(
            slot.uid,
            self._context.peer_id,
            hosted.expert.outer_step,
            hosted.expert.anchor_digest,
        )
        others = (
            Member(e.uid, e.peer_id, e.record.outer_step, e.record.anchor_digest)
            for e in self._context.directory.view.stage(slot.stage).serving
            if e.uid != slot.uid
        )
        return (me, *others)

    # --- rounds

    def _round_opened(self, _: ExpertUid, outer_step: int, seconds_left: float) -> None:
        """Join a round that others opened: at once when idle, else shortly before it closes.

        If it is past our next one we were left behind, and what we train is of no use.
        """
        hosted = self.hosted
        if hosted is None or outer_step <= hosted.expert.outer_step:
            return
        if outer_step > hosted.expert.outer_step + 1:
            hosted.round_due.set()
            return
        is_idle = hosted.session is None
        margin_s = min(2.0, seconds_left / 4)
        delay_s = 0.0 if is_idle else max(0.0, seconds_left - margin_s)
        asyncio.get_running_loop().call_later(delay_s, self._join_late, outer_step)

    def _join_late(self, outer_step: int) -> None:
        hosted = self.hosted
        if hosted is not None and outer_step == hosted.expert.outer_step + 1:
            hosted.round_due.set()

    async def _rounds(self, hosted: HostedExpert, slot: Slot) -> None:
        while True:
            await hosted.round_due.wait()
            try:
                async with hosted.pause():
                    await self._round(hosted, slot)
            except DistqatError as error:
                self._context.events.emit(
                    "round.failed", degraded=True, uid=slot.uid, error=str(error)
                )
            self._publish(hosted, slot)

    async def _round(self, hosted: HostedExpert, slot: Slot) -> None:
        """One attempt at an outer step; an abort keeps the anchor and trains on."""
        parts, expert = self._parts, hosted.expert
        stage = await self._context.directory.refresh_stage(slot.stage)
        if holders := self._outvoted_by(stage, expert):
            return await self._loader.resync(expert, holders)
        contribution = await parts.executor.run(expert.contribution)
        try:
            committed = await parts.averager.round(slot.uid, contribution)
        except RoundAborted:
            return await self._loader.load(expert, slot)
        digest = await parts.executor.run(
            lambda: expert.commit_outer(
                committed.mean, committed.outer_step, committed.int_buffers, committed.batches
            )
        )
        return await self._check_digest(expert, slot, committed.members, digest)

    async def _check_digest(
        self, expert: Expert, slot: Slot, members: tuple[ExpertUid, ...], digest: str
    ) -> None:
        """Compare the new anchor with the other members'; re-sync if the majority has another."""
        context = self._context
        agreement = await self._parts.averager.exchange_digest(slot.uid, expert.outer_step, digest)
        if agreement.silent:
            context.events.emit(
                "anchor.unchecked",
                uid=slot.uid,
                outer_step=expert.outer_step,
                silent=" ".join(agreement.silent),
            )
        if not agreement.dissenters:
            return
        context.events.emit(
            "anchor.differs",
            degraded=True,
            uid=slot.uid,
            outer_step=expert.outer_step,
            digest=digest[:16],
            majority=agreement.majority[:16],
        )
        if agreement.majority == digest:
            return
        stage = context.directory.view.stage(slot.stage)
        await self._loader.resync(
            expert,
            [
                (e.uid, e.peer_id)
                for e in stage.serving
                if e.uid in agreement.holders and e.uid in members
            ],
        )

    async def _leave(self, hosted: HostedExpert, slot: Slot) -> None:
        self.state = r.DRAINING
        self._parts.averager.detach(slot.uid)
        self._parts.donors.detach(slot.uid)
        await self._parts.host.detach(slot.uid)
        self._claim.withdraw()
        self._context.dht.withdraw(self._stage_key(slot), self._serial)
