"""An expert in one slot, from serving to gone."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from distqatd.averaging.averager import Averager
from distqatd.averaging.state import Donors
from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError, OutOfMemory, SwarmError
from distqatd.base.ids import PeerId, nickname
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.compute.memory import training_bytes
from distqatd.compute.precision import Precision
from distqatd.compute.stages import build_trained_stage
from distqatd.compute.weights import LoadedWeights, Weights
from distqatd.config.schedules import RunSchedule
from distqatd.data.tasks import Task
from distqatd.pipeline.host import StageHost
from distqatd.pipeline.hosted import HostedExpert
from distqatd.pipeline.links import make_links
from distqatd.pipeline.session import Session
from distqatd.roles.claim import Claim, Room
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.expert_rounds import ExpertRounds
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
        room: the device's memory.
        weights: what the run starts from; None also if this machine does not have it.
    """

    host: StageHost
    averager: Averager
    donors: Donors
    executor: Executor
    task: Task
    device: str
    timer: Callable[[], float]
    claims: asyncio.Lock
    room: Room = field(default_factory=Room)
    weights: Weights | None = None


async def build_hosted(context: Context, parts: ExpertParts, slot: Slot) -> HostedExpert:
    """Build the slot's stage with its initial weights, ready to be loaded and served."""
    config = context.config
    stages = config.model_pipeline.pipeline
    stage_config = stages[context.stage_names.index(slot.stage)]

    def build() -> tuple[Expert, LoadedWeights | None]:
        stage, loaded = build_trained_stage(config, stage_config, parts.device, parts.weights)
        expert = Expert(
            slot.uid,
            stage,
            config.diloco.inner_optim,
            config.diloco.outer_optim,
            device=parts.device,
            task=parts.task,
            stash_bytes=config.compute.stash_bytes,
            seed=config.seed,
            is_first=slot.stage == context.stage_names[0],
            timer=parts.timer,
            schedule=RunSchedule(config.diloco),
            precision=Precision(config.data.precision, parts.device.partition(":")[0]),
        )
        return expert, loaded

    expert, loaded = await parts.executor.run(build)
    if loaded is not None:
        num, fresh = loaded.num_tensors, ", ".join(loaded.fresh)
        context.events.emit("expert.weights_loaded", uid=slot.uid, tensors=num, fresh=fresh)
    return HostedExpert(
        slot.uid,
        expert,
        parts.executor,
        context.rpc,
        config.diloco,
        config.model_pipeline,
        parts.task,
        config.compute.max_microbatches_in_flight,
        make_links(config.quant, context.stage_names),
    )


class Life:
    """Serves one expert until it is released, cancelled, or another peer serves its uid.

    Attributes:
        state: serving, or draining.
        released: set it to have the expert leave.
        gone: set when it has left.
    """

    def __init__(
        self,
        context: Context,
        parts: ExpertParts,
        loader: StateLoader,
        slot: Slot,
        hosted: HostedExpert,
        claim: Claim,
        serial: str,
    ) -> None:
        """Prepare to serve `hosted` in `slot`, claimed by `claim`, under `serial` in the DHT."""
        self.slot = slot
        self.hosted = hosted
        self.state = r.SERVING
        self.released = asyncio.Event()
        self.gone = asyncio.Event()
        self.rounds = ExpertRounds(
            context, parts.averager, parts.executor, loader, hosted, slot, self.publish
        )
        self._context = context
        self._parts = parts
        self._claim = claim
        self._serial = serial
        self._num_divergences = 0
        self._unfit: OutOfMemory | None = None
        self._session: Session | None = None
        hosted.on_short = self._on_short
        self._key = r.stage_key(context.run_id, context.stage_names.index(slot.stage))

    async def run(self, on_serving: Callable[[], None]) -> None:
        """Serve until released, then leave; `on_serving` is called once others can see it.

        Raises:
            SwarmError: a lower peer id serves under the same uid.
            OutOfMemory: the stage does not fit into the device's memory.
        """
        self._serve()
        on_serving()
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [
                    tasks.create_task(self.rounds.run(), name="expert.rounds"),
                    tasks.create_task(self._republish(), name="expert.republish"),
                ]
                await self.released.wait()
                for keeper in keepers:
                    keeper.cancel()
        except* DistqatError as group:
            raise group.exceptions[0] from None
        finally:
            await self._leave()
        if self._unfit is not None:
            raise self._unfit

    def _on_short(self, decision: Decision[bool]) -> None:
        """Tell that memory ran out, and leave the stage if nothing is left to try."""
        uid, emit = self.hosted.uid, self._context.events.emit
        emit("expert.memory_short", degraded=True, uid=uid, reason=decision.reason)
        if decision.value:
            return
        diloco = self._context.config.diloco
        self._unfit = OutOfMemory(
            f"{uid} does not fit into the memory of {self._parts.device}: {decision.reason}; "
            f"raise diloco.num_microbatches ({diloco.num_microbatches}), lower "
            f"diloco.batch_size_per_step ({diloco.batch_size_per_step}), or host a smaller stage"
        )
        emit("expert.unfit", degraded=True, uid=uid, error=str(self._unfit))
        self._parts.room.unfit.add(self.slot.stage)
        self.released.set()

    def turn(self, state: str) -> None:
        """Serve, or drain, and tell the swarm."""
        self.state = state
        self.publish()

    def is_alone(self) -> bool:
        """Return whether no other replica will hold the stage's state, as far as is known.

        One that drains may be gone before we are, and take us for the one that stays.
        """
        stage = self._context.directory.view.stage(self.slot.stage)
        return all(member.uid == self.slot.uid for member in stage.serving)

    def used_bytes(self) -> int:
        """Return about how many bytes of its device the expert takes now."""
        expert = self.hosted.expert
        return training_bytes(expert.layout.num_params) + expert.stash_bytes

    def publish(self) -> None:
        """Tell the swarm where the expert stands."""
        context, hosted, expert = self._context, self.hosted, self.hosted.expert
        room, used = self._parts.room, self.used_bytes()
        record = r.ExpertRecord(
            uid=hosted.uid,
            state=self.state,
            addresses=context.addresses(),
            boot_epoch=context.boot_epoch,
            outer_step=expert.outer_step,
            inner_step=expert.inner_step,
            anchor_digest=expert.anchor_digest,
            samples_per_s=round(expert.samples_per_s, 1),
            session=hosted.session.id.fence if hosted.session else 0,
            memory_free=room.free_bytes(),
            memory_used=used,
            is_pinned=context.config.compute.stage is not None,
            unfit=room.unfit_bits(context.stage_names, used),
        )
        context.dht.announce(self._key, self._serial, record.pack(), ttl_s=TTL_S)
        self._note_route()

    def _serve(self) -> None:
        parts, uid = self._parts, self.slot.uid
        parts.host.attach(self.hosted)
        self.hosted.count_on()
        expert = self.hosted.expert
        parts.donors.attach(uid, expert.snapshot, expert.complete_snapshot, expert.keep_inner_state)
        parts.averager.attach(
            uid, self.slot.stage, self.rounds.roster, self.rounds.opened, self.rounds.refresh
        )
        self.publish()
        outer_step = self.hosted.expert.outer_step
        self._context.events.emit("expert.serving", uid=uid, outer_step=outer_step)

    async def _republish(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            # Not earlier: whoever reads the claims after the stage must find us in one of them.
            self._claim.withdraw()
            stage = await self._context.directory.refresh_stage(self.slot.stage)
            self._check_uid(stage)
            self.rounds.look(stage)
            self._tell_divergence()
            self.publish()

    def _note_route(self) -> None:
        """Keep whose route we are part of, or why we are part of none any more."""
        old, self._session = self._session, self.hosted.session
        if self._session is not None:
            route = " ".join(hop.uid for hop in self._session.route)
            text = f"{route}: {nickname(PeerId(self._session.trainer))} trains along it"
        elif old is not None:
            text = f"in no pipeline now: {old.close_reason}"
        else:
            return
        self._context.note("route", self.slot.uid, text)

    def _tell_divergence(self) -> None:
        expert, told = self.hosted.expert, self._num_divergences
        if expert.num_divergences > told:
            self._num_divergences = expert.num_divergences
            self._context.events.emit(
                "expert.diverged",
                degraded=True,
                uid=expert.uid,
                outer_step=expert.outer_step,
                times=expert.num_divergences - told,
                now="back at the anchor: what was trained since is dropped",
            )

    def _check_uid(self, stage: StageView) -> None:
        """Raise if a lower peer id serves under our uid: two joiners' claims have crossed."""
        uid = self.slot.uid
        for other in stage.serving:
            if other.uid == uid and other.peer_id < self._context.peer_id:
                raise SwarmError(f"{uid} is served by {other.peer_id} too; we take another slot")

    async def _leave(self) -> None:
        self.state = r.DRAINING
        self._parts.averager.detach(self.slot.uid)
        self._parts.donors.detach(self.slot.uid)
        await self._parts.host.detach(self.slot.uid)
        self._claim.withdraw()
        self._context.dht.withdraw(self._key, self._serial)
        self.gone.set()
