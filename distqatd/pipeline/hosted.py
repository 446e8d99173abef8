"""The expert's side of a step: take microbatches in order, push on, apply on COMMIT.

One expert with its session and its gate. Tensor work runs on the device's executor: commits and
aborts first, then backward, then forward, evaluation last.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

from distqatd.base.decision import Decision
from distqatd.base.errors import (
    HopLost,
    OutOfMemory,
    ProtocolError,
    RemoteProtocolError,
    StepAborted,
)
from distqatd.base.ids import ExpertUid
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig, ModelPipelineConfig
from distqatd.data.tasks import Task
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.evaluation import Evaluation
from distqatd.pipeline.flight import InFlight
from distqatd.pipeline.gate import Gate
from distqatd.pipeline.links import Links, Parcels
from distqatd.pipeline.outcome import lost_reply
from distqatd.pipeline.push import PRIORITY_SETTLE, Push
from distqatd.pipeline.session import HOLD, Session
from distqatd.pipeline.syncs import Syncs
from distqatd.pipeline.termination import Decisions, ask_outcome
from distqatd.wire.payload import Message

IDLE = "the open step to end before the round"

ASK_TRAINER_S = 3.0
"""A round that is due waits so long for the open step before it asks the trainer whether that
still drives it, and so long for its answer, seconds."""


class HostedExpert:
    """One expert: its session with a trainer, its gate between steps and rounds.

    A round may run only while no step is open, and no step starts while a round runs: `pause`
    waits for the first and guards the second.

    Attributes:
        session: the trainer's route it is part of now.
        newest: the highest session it has had, also if that is over: a lower one is refused.
        round_due: set when a round is.
        landing_due: set when one that steps went on beside has to be taken over.
        num_duplicated: batches that its rounds found on more than one replica.
        syncs: what its rounds have cost.
        evaluation: the anchor, tried out.
        in_flight: microbatches between forward and backward.
        on_short: told when the device ran out of memory, and whether to go on.
    """

    def __init__(  # noqa: PLR0913  built in one place, by the expert role
        self,
        uid: ExpertUid,
        expert: Expert,
        executor: Executor,
        rpc: Rpc,
        diloco: DilocoConfig,
        pipeline: ModelPipelineConfig,
        task: Task,
        max_in_flight: int = 32,
        links: Links | None = None,
    ) -> None:
        self.uid = uid
        self.in_flight = InFlight(max_in_flight)
        self.on_short: Callable[[Decision[bool]], None] | None = None
        self.evaluation = Evaluation(expert, executor, task)
        self.expert = expert
        self._executor = executor
        step_s = pipeline.forward_timeout + pipeline.backward_timeout
        self._call_s = step_s + diloco.averaging_timeout
        self._rpc = rpc
        self._push = Push(expert, executor, rpc, self._call_s, links or Links())
        self._schedule = RunSchedule(diloco)
        self._gate = Gate(uid, self._round_steps, self._call_s)
        self.round_due, self.landing_due = self._gate.round_due, self._gate.landing_due
        self.session: Session | None = None
        self.newest = m.SessionId(0, 0)
        self._decisions = Decisions()
        self.num_duplicated = 0
        self.syncs = Syncs()
        self._is_clean = True

    def _round_steps(self) -> int:
        """Return how many inner steps we take from round to round now."""
        usual = self._schedule.inner_steps(self.expert.outer_step)
        return max(1, round(usual * self.expert.pace))

    @property
    def steps_to_round(self) -> int:
        """Return how many applied steps there are until the next round."""
        return self._gate.steps_to_round

    def standing(self, first: int = 0, end: int = 0) -> m.Standing:
        """Return where the expert stands, also in the lease [first, end)."""
        return m.Standing(
            self.expert.outer_step,
            self.expert.inner_step,
            self.steps_to_round,
            self.expert.anchor_digest,
            self.expert.book.next_missing(first, end),
            self._gate.is_paused,
            self.expert.loss_scale,
        )

    def stand_in(self, call: m.AskCall) -> m.Standing:
        """Return where the expert stands in a session; never waits for the device.

        Raises:
            StepAborted: it is not in this session.
        """
        self._session(call.session)
        return self.standing(call.first, call.end)

    def book(self) -> m.BookReply:
        """Return the batches that the expert has applied."""
        expert = self.expert
        return m.BookReply(expert.book, self.newest.fence, expert.outer_step, self.num_duplicated)

    async def open(self, call: m.OpenCall, trainer: str) -> m.Standing:
        """Join a trainer's route; a session with a lower id gives way.

        Raises:
            StepAborted: there has been a session with a higher id, or this one is closed.
            RemoteProtocolError: the expert is not in the route.
        """
        if call.session < self.newest:
            raise StepAborted(f"{self.uid} has served {self.newest}, newer than {call.session}")
        if call.session == self.newest:
            self._session(call.session)
            await self._drop_step()
        else:
            uids = [hop.uid for hop in call.route]
            if self.uid not in uids:
                raise RemoteProtocolError(f"OPEN for {self.uid} with the route {uids}")
            position = uids.index(self.uid)
            self.newest = call.session
            await self._replace_session(
                Session(
                    call.session,
                    call.route,
                    position,
                    call.num_microbatches,
                    call.loss_at_trainer,
                    trainer,
                )
            )
        return self.standing(call.first, call.end)

    async def abort(self, session_id: m.SessionId, reason: str) -> None:
        """Drop the open step of a session and close it; a repetition does nothing."""
        if self.session is not None and self.session.id == session_id:
            await self._replace_session(None, reason)

    async def _replace_session(self, session: Session | None, reason: str = "replaced") -> None:
        old, self.session = self.session, session
        if old is not None:
            old.close(reason)
        self._is_clean = False
        await self._drop_step()
        await self._gate.changed()

    async def _drop_step(self) -> None:
        """Drop what an earlier session left in the expert.

        Whoever asked for it may be gone before its turn on the device comes, and then it is left
        out; so it is asked for again until it is done.
        """

        def work() -> None:
            self.expert.abort()
            self._is_clean = True

        if not self._is_clean:
            await self._executor.run(work, priority=PRIORITY_SETTLE)

    # --- one microbatch

    async def forward(self, call: m.MicrobatchCall, arrived: Parcels) -> Message:
        """Run a microbatch through this stage and all later ones; reply with input gradients.

        What is decided of the step before is applied first. The reply also says where this stage
        and the later ones stand, and brings the loss if the last stage computes it.
        """
        session = self._session(call.session)
        if call.decided is not None:
            await self.apply(session, call.decided)
        self.expert.pace = call.pace
        await self._turn(session, call.step, call.microbatch)
        # What waits here holds its inputs, but no activations yet: that is what is bounded.
        async with self.in_flight.slot():
            try:
                outcome = await self._push.run(session, call, arrived)
            except HopLost as error:
                return lost_reply(error)
            except OutOfMemory:
                self._shrink(session)
                raise
        session.finish(call.microbatch)
        return outcome.reply(self.standing(), is_first=session.is_first)

    def _shrink(self, session: Session) -> None:
        """Have fewer microbatches in flight when the batch is run again; once a session."""
        if session.is_short and not session.is_shrunk:
            session.is_shrunk = True
            decision = self.in_flight.shrink()
            if self.on_short is not None:
                self.on_short(decision)

    # --- COMMIT and rounds

    async def commit(self, call: m.CommitCall) -> m.Standing:
        """Apply the step; a repetition answers like the first time, also after the session.

        Raises:
            StepAborted: it was dropped here: replay the batch.
        """
        is_ours = self.session is not None and self.session.id == call.session
        if not is_ours and call.decided.batch in self.expert.book:
            return self.standing()
        await self.apply(self._session(call.session), call.decided)
        return self.standing()

    async def apply(self, session: Session, decided: m.Decided) -> None:
        """Apply a decided step, once; a batch that is in the expert's book is dropped.

        So is a step that a stage has vetoed.

        The caller's link may die while the step is applied, and then this is cancelled but the
        work is not: it notes by itself what it has done, so that a repetition does nothing.
        """

        def work() -> None:
            if not session.may_commit(decided.step):
                return
            if decided.drops:
                self.expert.abort()
                session.commit(decided.step)
                return
            result = self.expert.apply(decided.num_samples, decided.batch, decided.scale)
            session.commit(decided.step)
            self._decisions.note(session.id, decided)
            self.in_flight.fits()
            self._gate.num_applied += 0 if result.is_repeat else 1

        if session.may_commit(decided.step):
            await self._executor.run(work, priority=PRIORITY_SETTLE)
        await self._gate.changed()

    def pause(self) -> AbstractAsyncContextManager[None]:
        """Hold back new steps, wait until none is open, and let steps start again afterwards."""
        return self._gate.pause(self._until_idle)

    @property
    def overlap_steps(self) -> int:
        """Return how many steps may go on beside the next round; 0: it holds them back."""
        if self.session is None:
            return 0
        overlap = self._schedule.overlap(self.expert.outer_step)
        return min(round(overlap * self.expert.pace), self._round_steps() - 1)

    def take_off(self, num_steps: int) -> None:
        """Let steps go on beside the round that is about to run, so many before `land`."""
        self._gate.lands_after = num_steps

    def land(self) -> AbstractAsyncContextManager[None]:
        """Hold back new steps, wait until none is open: the round is taken over meanwhile."""
        return self._gate.land(self._until_idle)

    def count_on(self) -> None:
        """Count the steps that a loaded state has taken since its last round began."""
        self._gate.num_applied = self.expert.steps_since_anchor

    async def _until_idle(self) -> None:
        """Wait until no step is open; drop that of a session which its trainer has left."""
        while (session := self.session) is not None and not session.is_idle:
            if await self._ends_soon(session) or await self._is_driven(session):
                continue
            if self.session is session and not session.is_idle:
                await self._replace_session(None, "its trainer has left it")
        await self._drop_step()

    async def _ends_soon(self, session: Session) -> bool:
        """Wait a moment; return whether the open step has ended in it."""

        def has_ended() -> bool:
            return self.session is not session or session.is_idle

        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_TRAINER_S):
                await self._gate.until(has_ended, IDLE)
        return has_ended()

    async def _is_driven(self, session: Session) -> bool:
        """Ask the trainer whether it still drives a session; apply what was decided in it."""
        reply = await ask_outcome(self._rpc, self.uid, session, ASK_TRAINER_S)
        if reply.decided is not None:
            with suppress(ProtocolError):  # it does not fit what is done here
                await self.apply(session, reply.decided)
        return reply.drives

    def decided(self, session: m.SessionId) -> m.DrivesReply:
        """Return the last step of a session that was applied here, if we remember."""
        return m.DrivesReply(drives=False, decided=self._decisions.get(session))

    @property
    def is_unused(self) -> bool:
        """Return whether no step comes here soon: nobody trains it, or who does waits elsewhere."""
        return self.session is None or self.session.awaits_round

    async def round_over(self, call: m.AskCall) -> m.Standing:
        """Return where the expert stands once no round is due or running.

        The trainer asks every stage of its route: also ours may take a round meanwhile.

        Raises:
            StepAborted: it is not in this session.
        """
        self._session(call.session).awaits_round = True
        await self._gate.until(lambda: not self._gate.is_paused, "the round to end")
        return self.standing()

    # --- plumbing

    def _session(self, session_id: m.SessionId) -> Session:
        if self.session is None or self.session.id != session_id:
            raise StepAborted(f"{self.uid} is not in session {session_id}")
        return self.session

    async def _turn(self, session: Session, step: int, microbatch: int) -> None:
        """Wait until the microbatch may start, and mark it started."""

        def may_start() -> bool:
            paused = self._gate.is_paused
            return session.admit(step, microbatch, is_paused=paused) != HOLD

        await self._gate.until(may_start, f"step {step} to start")
        session.start(microbatch)
