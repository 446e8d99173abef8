"""An expert's part in outer steps: who counts, when it joins, what it does with the mean."""

import asyncio
from collections.abc import Callable

from distqatd.averaging.averager import Averager
from distqatd.averaging.digests import agree
from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member
from distqatd.base.errors import DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Contribution, Expert
from distqatd.pipeline.hosted import HostedExpert
from distqatd.roles.context import Context
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
        self._averager = averager
        self._executor = executor
        self._loader = loader
        self._hosted = hosted
        self._slot = slot
        self._publish = publish
        self._heard_of = 0
        self.is_running = False
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Take part in a round whenever one is due, until cancelled."""
        hosted = self._hosted
        while True:
            await hosted.round_due.wait()
            was_at = hosted.expert.outer_step
            try:
                async with hosted.pause():
                    await self._round()
            except DistqatError as error:
                self._context.events.emit(
                    "round.failed", degraded=True, uid=hosted.uid, error=str(error)
                )
            finally:
                self.is_running = False
                self.ended.set()
            if was_at < hosted.expert.outer_step < self._heard_of:
                # The others opened, and perhaps ended, their next round while we took over the
                # state before it: nobody tells us again.
                hosted.round_due.set()
            self._publish()

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
        outer_step = self._hosted.expert.outer_step
        is_behind = any(e.record.outer_step > outer_step for e in stage.members)
        if is_behind or self._outvoted_by(stage):
            self._hosted.round_due.set()

    def _outvoted_by(self, stage: StageView) -> list[tuple[ExpertUid, PeerId]]:
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

    # --- when it joins

    def opened(self, _: ExpertUid, outer_step: int, seconds_left: float) -> None:
        """Join a round that others opened: at once when idle, else shortly before it closes.

        If it is past our next one we were left behind, and what we train is of no use.
        """
        hosted, self._heard_of = self._hosted, outer_step
        if outer_step <= hosted.expert.outer_step:
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
        if outer_step != hosted.expert.outer_step + 1 or hosted.round_due.is_set():
            return
        if hosted.is_unused or left_s <= 0:
            hosted.round_due.set()
        else:
            loop.call_later(min(left_s, IDLE_POLL_S), self._join_when_idle, outer_step, latest_at)

    # --- one round

    async def _round(self) -> None:
        """One attempt at an outer step; an abort keeps the anchor and trains on."""
        self.is_running = True
        expert, slot = self._hosted.expert, self._slot
        stage = await self._context.directory.refresh_stage(slot.stage)
        if holders := self._outvoted_by(stage):
            return await self._loader.resync(expert, holders)
        loop = asyncio.get_running_loop()
        began = loop.time()
        contribution = await self._executor.run(expert.contribution)
        try:
            committed = await self._averager.round(slot.uid, contribution)
        except RoundAborted:
            self._hosted.syncs.aborted(loop.time() - began)
            # The stage may have gone on without us.
            return await self._loader.load(expert, slot)
        digest = await self._executor.run(lambda: _commit(expert, contribution, committed))
        self._hosted.num_duplicated += committed.duplicated
        self._tell_sync(loop.time() - began, committed)
        return await self._check_digest(committed.members, digest)

    def _tell_sync(self, seconds: float, committed: Committed) -> None:
        """Log what an outer step has cost, beside what all have cost so far."""
        syncs, expert = self._hosted.syncs, self._hosted.expert
        syncs.committed(seconds, committed.bytes_sent)
        self._context.events.emit(
            "expert.synced",
            uid=expert.uid,
            outer_step=expert.outer_step,
            syncs=syncs.num_committed,
            members=len(committed.members),
            seconds=round(seconds, 3),
            total_s=round(syncs.seconds, 3),
            mb_sent=round(committed.bytes_sent / 1e6, 3),
            mbit_per_s=round(syncs.mbit_per_s, 1),
        )

    async def _check_digest(self, members: tuple[ExpertUid, ...], digest: str) -> None:
        """Compare the new anchor with the other members'; re-sync if the majority has another."""
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
            return
        context.events.emit(
            "anchor.differs",
            degraded=True,
            uid=uid,
            outer_step=expert.outer_step,
            digest=digest[:16],
            majority=agreement.majority[:16],
        )
        if agreement.majority == digest:
            return
        stage = context.directory.view.stage(self._slot.stage)
        holders = [
            (e.uid, e.peer_id)
            for e in stage.members
            if e.uid in agreement.holders and e.uid in members
        ]
        await self._loader.resync(expert, holders)


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
