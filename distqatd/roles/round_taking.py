"""One attempt at an outer step: average, commit, compare with the others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from distqatd.averaging.averager import Averager
from distqatd.averaging.digests import agree
from distqatd.averaging.records import Committed
from distqatd.base.errors import RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Contribution, Expert
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.context import Context
from distqatd.roles.state_loader import StateLoader
from distqatd.swarm.placement import Slot
from distqatd.swarm.view import StageView

Repair = Callable[[], Awaitable[None]]
"""Brings the expert to the others' state. No inner step may be open then."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of an attempt.

    Attributes:
        seconds: it took.
        committed: the outer step, if it was taken.
        repair: what must be done before the expert goes on, if anything.
    """

    seconds: float = 0.0
    committed: Committed | None = None
    repair: Repair | None = None


class RoundTaking:
    """Takes the contributions of one serving expert through rounds."""

    def __init__(
        self,
        context: Context,
        averager: Averager,
        executor: Executor,
        loader: StateLoader,
        hosted: HostedExpert,
        slot: Slot,
    ) -> None:
        self._context = context
        self._averager = averager
        self._executor = executor
        self._loader = loader
        self._hosted = hosted
        self._slot = slot

    def outvoted_by(self, stage: StageView) -> list[tuple[ExpertUid, PeerId]]:
        """Return who holds the anchor that most have at our outer step, if it is not ours."""
        expert = self._hosted.expert
        others = {
            e.uid: e
            for e in stage.members
            if e.uid != expert.uid and e.record.outer_step == expert.outer_step
        }
        digests = {uid: e.record.anchor_digest for uid, e in others.items()}
        agreement = agree({**digests, expert.uid: expert.anchor_digest}, ())
        if expert.uid in agreement.holders:
            return []
        return [(uid, others[uid].peer_id) for uid in agreement.holders]

    async def check(self) -> Taken | None:
        """Look whether the stage has outvoted us; then a round would be of no use."""
        stage = await self._context.directory.refresh_stage(self._slot.stage)
        holders = self.outvoted_by(stage)
        return Taken(repair=self._resync(holders)) if holders else None

    async def take(self, contribution: Contribution) -> Taken:
        """Attempt an outer step; an abort keeps the anchor.

        Raises:
            DistqatError: it could not be committed here.
        """
        expert, slot, loop = self._hosted.expert, self._slot, asyncio.get_running_loop()
        began = loop.time()
        try:
            committed = await self._averager.round(slot.uid, contribution)
        except RoundAborted:
            # The stage may have gone on without us.
            return Taken(loop.time() - began, repair=lambda: self._loader.load(expert, slot))
        digest = await self._executor.run(lambda: _commit(expert, contribution, committed))
        self._hosted.num_duplicated += committed.duplicated
        seconds = loop.time() - began
        holders = await self._check_digest(committed.members, digest)
        return Taken(seconds, committed, self._resync(holders) if holders else None)

    def tell(self, taken: Taken, held_s: float) -> None:
        """Log what an outer step has cost, beside what all have cost so far.

        Args:
            taken: what came of it.
            held_s: how long steps were held back for it.
        """
        syncs, expert, committed = self._hosted.syncs, self._hosted.expert, taken.committed
        if committed is None:
            syncs.aborted(held_s)
            return
        syncs.committed(taken.seconds, committed.bytes_sent, held_s)
        self._context.events.emit(
            "expert.synced",
            uid=expert.uid,
            outer_step=committed.outer_step,
            syncs=syncs.num_committed,
            members=len(committed.members),
            seconds=round(taken.seconds, 3),
            held_s=round(held_s, 3),
            total_s=round(syncs.seconds, 3),
            mb_sent=round(committed.bytes_sent / 1e6, 3),
            mbit_per_s=round(syncs.mbit_per_s, 1),
        )

    def _resync(self, holders: list[tuple[ExpertUid, PeerId]]) -> Repair:
        return lambda: self._loader.resync(self._hosted.expert, holders)

    async def _check_digest(
        self, members: tuple[ExpertUid, ...], digest: str
    ) -> list[tuple[ExpertUid, PeerId]]:
        """Compare the new anchor with the other members'; return whose to take over, if any."""
        context, expert, uid = self._context, self._hosted.expert, self._slot.uid
        agreement = await self._averager.exchange_digest(uid, expert.outer_step, digest)
        if agreement.silent:
            context.events.emit(
                "anchor.unchecked",
                uid=uid,
                outer_step=expert.outer_step,
                silent=" ".join(agreement.silent),
            )
        if not agreement.dissenters:
            return []
        context.events.emit(
            "anchor.differs",
            degraded=True,
            uid=uid,
            outer_step=expert.outer_step,
            digest=digest[:16],
            majority=agreement.majority[:16],
        )
        if agreement.majority == digest:
            return []
        stage = context.directory.view.stage(self._slot.stage)
        return [
            (e.uid, e.peer_id)
            for e in stage.members
            if e.uid in agreement.holders and e.uid in members
        ]


def _commit(expert: Expert, made: Contribution, committed: Committed) -> str:
    """Take an outer step; what was trained since our part in it goes on top of the new anchor."""
    digest = expert.commit_outer(
        committed.mean,
        committed.outer_step,
        committed.int_buffers,
        committed.batches,
        committed.rest,
        committed.voters,
    )
    inside = committed.contribution
    if isinstance(inside, Contribution) and inside is not made and made.steps > inside.steps:
        expert.train_on(made, inside)
    return digest
