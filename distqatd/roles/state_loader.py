"""Where an expert's state comes from: replicas that serve, else a mirror, else the seed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from distqatd.averaging.manifest import ALL, COMMITTED
from distqatd.averaging.offers import Donor, Wanted
from distqatd.averaging.state import runner, unpack
from distqatd.averaging.transfer import StateFetch
from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.compute.payload import torch_sink
from distqatd.compute.results import Snapshot
from distqatd.config.run import resume_digest
from distqatd.optim.outer import state_names
from distqatd.roles.context import Context
from distqatd.roles.lost_state import LOST_STAGE_S, may_come_back
from distqatd.swarm.placement import Slot
from distqatd.swarm.records import MirrorRecord, mirror_state
from distqatd.swarm.view import ExpertInfo

RETRY_S = 1.0

PATIENCE_S = 15.0
"""A donor that was lost may have lost no more than its link: so long it may take to come back,
before its state is given up and the stage starts from older state or from the seed."""

REPLICAS = "replicas"
MIRROR = "mirror"

Mirrors = Sequence[tuple[PeerId, MirrorRecord]]


@dataclass(frozen=True, slots=True)
class StateSource:
    """Who is asked for a state; `kind` is REPLICAS or MIRROR."""

    kind: str
    donors: tuple[Donor, ...]


def pick_replicas(outer_step: int, others: Sequence[ExpertInfo]) -> Decision[StateSource | None]:
    """Decide which serving replicas an expert at `outer_step` takes its state from, if any."""
    newest = max((e.record.outer_step for e in others), default=-1)
    if newest <= outer_step:
        text = f"{len(others)} replicas serve, none past outer step {outer_step}"
        return Decision(None, text)
    donors = tuple((e.uid, e.peer_id) for e in others if e.record.outer_step == newest)
    return Decision(StateSource(REPLICAS, donors), f"{len(donors)} replicas are at {newest}")


def pick_mirrors(
    outer_step: int, stage: str, mirrors: Mirrors, config_digest: str
) -> Decision[StateSource | None]:
    """Decide which mirrors an expert takes its state from when no replica serves its stage."""
    fitting = [(peer, record) for peer, record in mirrors if record.config_digest == config_digest]
    newest = max((record.outer_step for _, record in fitting), default=-1)
    if newest <= outer_step:
        return Decision(None, f"no mirror is past outer step {outer_step}")
    name = mirror_state(stage)
    donors = tuple((name, peer) for peer, record in fitting if record.outer_step == newest)
    return Decision(StateSource(MIRROR, donors), f"{len(donors)} mirrors are at {newest}")


class StateLoader:
    """Brings experts of this daemon to the swarm's committed state.

    Args:
        context: this daemon.
        executor: of its device.
        may_seed: whether an expert that finds no state may start from the one it was built with;
            not if the run starts from weights that this machine does not have.
    """

    def __init__(self, context: Context, executor: Executor, *, may_seed: bool = True) -> None:
        self._context = context
        self._may_seed = may_seed
        self._executor = executor
        self._config_digest = resume_digest(context.config)

    async def load(self, expert: Expert, slot: Slot) -> None:
        """Load the newest committed state of the stage, unless the expert has it.

        A transfer that fails is tried again, with those who serve then, and goes on with what is
        here already if they hold the same state.
        """
        fetches = self._fetches(expert)
        hope_until = await self._hope_until(expert, slot)
        if self._is_empty(expert):
            self._tell_weights_missing(expert)
        while True:
            source = await self._find(expert, slot)
            if source.value is not None:
                if await self._try(expert, source.value, fetches):
                    return None
                now = asyncio.get_running_loop().time()
                hope_until = max(hope_until, now + PATIENCE_S)
            elif self._is_empty(expert):
                pass  # only somebody who has the weights, or state made from them, can help
            elif asyncio.get_running_loop().time() >= hope_until:
                return self._tell_seeded(expert, source.reason, is_loss=hope_until > 0)
            await asyncio.sleep(RETRY_S)

    async def _hope_until(self, expert: Expert, slot: Slot) -> float:
        """Return the loop time until which state that we know to have existed may come back."""
        found = await may_come_back(self._context, slot.stage, expert.outer_step)
        if not found.value:
            return 0.0
        self._context.events.emit(
            "expert.state_awaited",
            degraded=True,
            uid=expert.uid,
            reason=found.reason,
            at_most_s=LOST_STAGE_S,
        )
        return asyncio.get_running_loop().time() + LOST_STAGE_S

    async def resync(self, expert: Expert, holders: Sequence[Donor]) -> None:
        """Give up our anchor for the one that most replicas hold at this outer step.

        Raises:
            CheckpointError: no holder gave it.
        """
        fetch = self._fetches(expert)[COMMITTED]
        snapshot = unpack(await fetch.fetch(holders))
        await self._catch_up(expert, snapshot)
        self._context.events.emit(
            "anchor.resynced", degraded=True, uid=expert.uid, outer_step=expert.outer_step
        )

    async def _catch_up(self, expert: Expert, snapshot: Snapshot) -> int:
        """Take over a newer anchor; return how many batches trained here go along with it."""
        carried = await self._executor.run(lambda: expert.catch_up(snapshot))
        if carried.dropped:
            self._context.events.emit(
                "expert.work_dropped",
                degraded=True,
                uid=expert.uid,
                num_batches=len(carried.dropped),
                batches=str(carried.dropped)[:200],
            )
        return len(carried.kept)

    async def _find(self, expert: Expert, slot: Slot) -> Decision[StateSource | None]:
        context = self._context
        outer_step = -1 if self._is_empty(expert) else expert.outer_step
        stage = await context.directory.refresh_stage(slot.stage)
        others = [e for e in stage.members if e.peer_id != context.peer_id]
        if others:
            return pick_replicas(outer_step, others)
        mirrors = await context.directory.mirrors()
        return pick_mirrors(outer_step, slot.stage, mirrors, self._config_digest)

    def _is_empty(self, expert: Expert) -> bool:
        """Return whether the expert holds nothing that it may serve with."""
        return not self._may_seed and not expert.outer_step and not expert.inner_step

    def _fetches(self, expert: Expert) -> dict[str, StateFetch]:
        """Return a fetch for either kind of state; both refuse what cannot be this expert's."""
        num = expert.layout.num_elements
        # The anchor and the outer optimizer's moments; with up to four slots of the inner one, a
        # count for each tensor among them. All float32.
        committed = 4 * num * (1 + len(state_names(self._context.config.diloco.outer_optim)))
        sizes = {COMMITTED: committed, ALL: committed + 16 * num}
        return {
            parts: StateFetch(
                self._context.rpc,
                self._context.events,
                Wanted(parts, max_bytes, expert.layout_digest),
                allocate=torch_sink,
                run=runner(self._executor),
            )
            for parts, max_bytes in sizes.items()
        }

    async def _try(
        self, expert: Expert, source: StateSource, fetches: dict[str, StateFetch]
    ) -> bool:
        try:
            await self._take(expert, source, fetches)
        except DistqatError as error:
            self._context.events.emit(
                "expert.state_missing", degraded=True, uid=expert.uid, error=str(error)
            )
            return False
        return True

    async def _take(
        self, expert: Expert, source: StateSource, fetches: dict[str, StateFetch]
    ) -> None:
        began = asyncio.get_running_loop().time()
        fetch = fetches[COMMITTED] if source.kind == REPLICAS else fetches[ALL]
        snapshot = unpack(await fetch.fetch(source.donors))
        num_kept = 0
        if source.kind == REPLICAS:
            num_kept = await self._catch_up(expert, snapshot)
        else:
            await self._executor.run(lambda: expert.load(snapshot))
        self._context.events.emit(
            "expert.state_loaded",
            uid=expert.uid,
            outer_step=expert.outer_step,
            source=source.kind,
            donors=len(source.donors),
            inner=snapshot.has_inner,
            kept=num_kept,
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )

    def _tell_seeded(self, expert: Expert, reason: str, *, is_loss: bool) -> None:
        if is_loss:
            self._context.events.emit(
                "expert.state_lost", degraded=True, uid=expert.uid, at=expert.outer_step
            )
        if not expert.outer_step and not expert.inner_step:
            self._context.events.emit("expert.state_seeded", uid=expert.uid, reason=reason)

    def _tell_weights_missing(self, expert: Expert) -> None:
        self._context.events.emit(
            "expert.weights_missing",
            degraded=True,
            uid=expert.uid,
            weights=self._context.config.model_pipeline.weights,
            now="waits for a replica that has them",
            fix="--set compute.weights=PATH, where this machine has them",
        )
