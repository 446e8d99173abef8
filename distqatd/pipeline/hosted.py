"""The expert's side of a step: take microbatches in order, push on, apply on COMMIT.

One expert with its session and its gate. Tensor work runs on the device's executor: commits and
aborts first, then backward, then forward, evaluation last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from distqatd.base.errors import PeerTimeout, StepAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert, LossResult
from distqatd.compute.payload import to_wire, torch_sink
from distqatd.config.sections import DilocoConfig, ModelPipelineConfig
from distqatd.data.tasks import Task
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import Outcome
from distqatd.pipeline.session import HOLD, Session
from distqatd.pipeline.tensors import read_gradients
from distqatd.wire.payload import Message

T = TypeVar("T")

PRIORITY_SETTLE = 0
PRIORITY_BACKWARD = 1
PRIORITY_FORWARD = 2
PRIORITY_EVALUATE = 3


class HostedExpert:
    """One expert: its session with a trainer, its gate between steps and rounds.

    A round may run only while no step is open, and no step starts while a round runs: `pause`
    waits for the first and guards the second.
    """

    def __init__(
        self,
        uid: ExpertUid,
        expert: Expert,
        executor: Executor,
        rpc: Rpc,
        diloco: DilocoConfig,
        pipeline: ModelPipelineConfig,
        task: Task,
        max_in_flight: int = 32,
    ) -> None:
        self.uid = uid
        self._in_flight = asyncio.Semaphore(max_in_flight)
        self._task = task
        self.expert = expert
        self._executor = executor
        self._rpc = rpc
        self._inner_steps = diloco.inner_steps
        self._round_s = diloco.averaging_timeout
        self._step_s = pipeline.forward_timeout + pipeline.backward_timeout
        self.session: Session | None = None
        self.steps_to_round = diloco.inner_steps
        self.round_due = asyncio.Event()
        self._is_paused = False
        self._changed = asyncio.Condition()

    def standing(self) -> m.Standing:
        """Return where the expert stands."""
        return m.Standing(
            self.expert.outer_step,
            self.expert.inner_step,
            self.steps_to_round,
            self.expert.anchor_digest,
        )

    async def open(self, call: m.OpenCall, trainer: str) -> m.Standing:
        """Join a trainer's route; a session with a lower id gives way, a higher one refuses."""
        held = self.session
        if held is not None and call.session < held.id:
            raise StepAborted(f"{self.uid} serves session {held.id}, newer than {call.session}")
        if held is None or call.session > held.id:
            position = [hop.uid for hop in call.route].index(self.uid)
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
        return self.standing()

    async def abort(self, session_id: m.SessionId, reason: str) -> None:
        """Drop the open step of a session and close it; a repetition does nothing."""
        if self.session is not None and self.session.id == session_id:
            await self._replace_session(None, reason)

    async def _replace_session(self, session: Session | None, reason: str = "replaced") -> None:
        old, self.session = self.session, session
        if old is not None:
            old.close(reason)
        await self._executor.run(self.expert.abort, priority=PRIORITY_SETTLE)
        await self._after_commit()

    # --- one microbatch

    async def forward(self, call: m.MicrobatchCall, tensors: tuple[Tensor, ...]) -> Message:
        """Run a microbatch through this stage and all later ones; reply with input gradients.

        What is decided of the step before is applied first. The reply also says where this stage
        and the later ones stand, and brings the loss if the last stage computes it.
        """
        session = self._session(call.session)
        if call.decided is not None:
            await self.apply(session, call.decided)
        await self._turn(session, call.step, call.microbatch)
        # What waits here holds its inputs, but no activations yet: that is what is bounded.
        async with self._in_flight:
            outcome = await self._pass(session, call, tensors)
        session.finish(call.microbatch)
        return outcome.reply(self.standing(), is_first=session.is_first)

    async def _pass(
        self, session: Session, call: m.MicrobatchCall, tensors: tuple[Tensor, ...]
    ) -> Outcome:
        """Forward, whatever comes after this stage, backward."""
        num_inputs = len(tensors) - call.num_targets
        inputs, targets = tensors[:num_inputs], tensors[num_inputs:]
        if session.is_last and not session.loss_at_trainer:
            loss, grads = await self._compute(
                session,
                lambda: self.expert.loss_backward(
                    call.microbatch, inputs, targets, call.scale, call.seed
                ),
                PRIORITY_BACKWARD,
            )
            return Outcome(grads, (), loss)
        outputs = await self._compute(
            session,
            lambda: self.expert.forward(call.microbatch, inputs, call.seed),
            PRIORITY_FORWARD,
        )
        reply = await self._ask_gradients(session, call, outputs, targets)
        returned = read_gradients(reply, len(outputs))
        grads = await self._compute(
            session,
            lambda: self.expert.backward(call.microbatch, returned),
            PRIORITY_BACKWARD,
        )
        return Outcome.after(reply, grads)

    async def _ask_gradients(
        self,
        session: Session,
        call: m.MicrobatchCall,
        outputs: tuple[Tensor, ...],
        targets: tuple[Tensor, ...],
    ) -> Message:
        """Send outputs to the next stage, or to the trainer for the loss; return the reply."""
        if session.is_last:
            peer, uid, method = PeerId(session.trainer), call.uid, m.LOSS
        else:
            hop = session.route[session.position + 1]
            peer, uid, method = hop.peer_id, hop.uid, m.FORWARD
        sent = (*(output.detach() for output in outputs), *targets)
        tensors = tuple(to_wire(str(i), tensor) for i, tensor in enumerate(sent))
        message = Message(replace(call, uid=uid).body(), tensors)
        return await self._rpc.call(peer, method, message, timeout_s=self._call_s, sink=torch_sink)

    # --- COMMIT and rounds

    async def commit(self, call: m.CommitCall) -> m.Standing:
        """Apply the step; a repetition answers like the first time."""
        await self.apply(self._session(call.session), call.decided)
        return self.standing()

    async def apply(self, session: Session, decided: m.Decided) -> None:
        """Apply a decided step, once.

        The caller's link may die while the step is applied, and then this is cancelled but the
        work is not: it notes by itself what it has done, so that a repetition does nothing.
        """

        def work() -> None:
            if session.may_commit(decided.step):
                self.expert.apply(decided.num_samples)
                session.commit(decided.step)
                self.steps_to_round -= 1

        if session.may_commit(decided.step):
            await self._executor.run(work, priority=PRIORITY_SETTLE)
        await self._after_commit()

    async def _after_commit(self) -> None:
        """Let the next step start, or hold it back if a round is due."""
        if self.steps_to_round <= 0 and not self._is_paused:
            self._is_paused = True
            self.round_due.set()
        await self._notify()

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Hold back new steps, wait until none is open, and let steps start again afterwards."""
        self._is_paused = True
        try:
            async with self._deadline("the open step to end before the round"):
                await self._until(lambda: self.session is None or self.session.is_idle)
            yield
        finally:
            self._is_paused = False
            self.round_due.clear()
            self.steps_to_round = self._inner_steps
            await self._notify()

    async def round_over(self) -> m.Standing:
        """Return where the expert stands once no round is due or running."""
        async with self._deadline("the round to end"):
            await self._until(lambda: not self._is_paused)
        return self.standing()

    # --- evaluation

    async def evaluate(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the anchor's outputs, in evaluation mode; training state is not touched."""
        return await self._executor.run(
            lambda: self.expert.evaluate(inputs), priority=PRIORITY_EVALUATE
        )

    async def measure(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> LossResult:
        """Return the loss and the metric sums of outputs against targets."""

        def work() -> LossResult:
            loss = self._task.loss(outputs, targets).item()
            return LossResult(loss, self._task.metrics(outputs, targets))

        return await self._executor.run(work, priority=PRIORITY_EVALUATE)

    # --- plumbing

    @property
    def _call_s(self) -> float:
        return self._step_s + self._round_s

    def _session(self, session_id: m.SessionId) -> Session:
        if self.session is None or self.session.id != session_id:
            raise StepAborted(f"{self.uid} is not in session {session_id}")
        return self.session

    async def _turn(self, session: Session, step: int, microbatch: int) -> None:
        """Wait until the microbatch may start, and mark it started."""

        def may_start() -> bool:
            return session.admit(step, microbatch, is_paused=self._is_paused) != HOLD

        if not may_start():
            async with self._deadline(f"step {step} to start"):
                await self._until(may_start)
        session.start(microbatch)

    async def _compute(self, session: Session, work: Callable[[], T], priority: int) -> T:
        """Run work on the device, unless the session has ended by the time its turn comes."""

        def guarded() -> T:
            if session.is_closed:
                raise StepAborted(f"session {session.id} is closed: {session.close_reason}")
            return work()

        return await self._executor.run(guarded, priority=priority)

    async def _until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @asynccontextmanager
    async def _deadline(self, awaited: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._call_s):
                yield
        except TimeoutError:
            message = f"{self.uid} waited {self._call_s:.0f} s for {awaited}"
            raise PeerTimeout(message) from None
