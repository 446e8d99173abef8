"""The expert's side of a step: take microbatches in order, push on, apply on COMMIT.

One expert with its session and its gate. Tensor work runs on the device's executor: commits and
aborts first, then backward, then forward, evaluation last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
from distqatd.pipeline.session import HOLD, Session
from distqatd.pipeline.tensors import pack_gradients, read_gradients
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
        self.committed_batches = 0
        self._is_paused = False
        self._changed = asyncio.Condition()
        self._targets: dict[tuple[int, int], asyncio.Future[tuple[Tensor, ...]]] = {}
        self._losses: dict[tuple[int, int], asyncio.Future[LossResult]] = {}

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
        error = StepAborted(f"the session ended: {reason}")
        for waiting in self._targets.values():
            _fail(waiting, error)
        for asked in self._losses.values():
            _fail(asked, error)
        self._targets.clear()
        self._losses.clear()
        await self._executor.run(self.expert.abort, priority=PRIORITY_SETTLE)
        await self._after_commit()

    # --- one microbatch

    async def forward(self, call: m.MicrobatchCall, inputs: tuple[Tensor, ...]) -> Message:
        """Run a microbatch through this stage and all later ones; reply with input gradients."""
        session = self._session(call.session)
        await self._turn(session, call.step, call.microbatch)
        # What waits here holds its inputs, but no activations yet: that is what is bounded.
        async with self._in_flight:
            grads = await self._pass(session, call, inputs)
        session.finish(call.microbatch)
        return pack_gradients(() if session.is_first else grads)

    async def _pass(
        self, session: Session, call: m.MicrobatchCall, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Forward, whatever comes after this stage, backward; return the inputs' gradients."""
        if session.is_last and not session.loss_at_trainer:
            return await self._loss_step(session, call, inputs)
        outputs = await self._compute(
            session,
            lambda: self.expert.forward(call.microbatch, inputs, call.seed),
            PRIORITY_FORWARD,
        )
        returned = await self._ask_gradients(session, call, outputs)
        return await self._compute(
            session,
            lambda: self.expert.backward(call.microbatch, returned),
            PRIORITY_BACKWARD,
        )

    async def _ask_gradients(
        self, session: Session, call: m.MicrobatchCall, outputs: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Send outputs to the next stage, or to the trainer for the loss; return gradients."""
        if session.is_last:
            peer, uid, method = session.trainer, call.uid, m.LOSS
        else:
            hop = session.route[session.position + 1]
            peer, uid, method = hop.peer_id, hop.uid, m.FORWARD
        body = m.MicrobatchCall(
            uid, call.session, call.step, call.microbatch, call.scale, call.seed
        ).body()
        tensors = tuple(to_wire(str(i), output.detach()) for i, output in enumerate(outputs))
        reply = await self._rpc.call(
            PeerId(peer), method, Message(body, tensors), timeout_s=self._call_s, sink=torch_sink
        )
        return read_gradients(reply, len(outputs))

    async def _loss_step(
        self, session: Session, call: m.MicrobatchCall, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        key = (call.step, call.microbatch)
        async with self._deadline("targets of the microbatch"):
            targets = await _slot(self._targets, key)
        result, grads = await self._compute(
            session,
            lambda: self.expert.loss_backward(
                call.microbatch, inputs, targets, call.scale, call.seed
            ),
            PRIORITY_BACKWARD,
        )
        _fill(_slot(self._losses, key), result)
        return grads

    async def targets(self, call: m.MicrobatchCall, targets: tuple[Tensor, ...]) -> LossResult:
        """Take a microbatch's targets at the last stage; return its loss when it is known."""
        self._session(call.session)
        key = (call.step, call.microbatch)
        _fill(_slot(self._targets, key), targets)
        try:
            async with self._deadline("the loss of the microbatch"):
                return await _slot(self._losses, key)
        finally:
            self._targets.pop(key, None)
            self._losses.pop(key, None)

    # --- COMMIT and rounds

    async def commit(self, call: m.CommitCall) -> m.Standing:
        """Apply the step; a repetition answers like the first time.

        The caller's link may die while the step is applied, and then this is cancelled but the
        work is not: it notes by itself what it has done, so that a repetition does nothing.
        """
        session = self._session(call.session)

        def work() -> None:
            if session.may_commit(call.step):
                self.expert.apply(call.num_samples)
                session.commit(call.step)
                self.committed_batches += 1
                self.steps_to_round -= 1

        if session.may_commit(call.step):
            await self._executor.run(work, priority=PRIORITY_SETTLE)
        await self._after_commit()
        return self.standing()

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


def _slot(
    slots: dict[tuple[int, int], "asyncio.Future[T]"], key: tuple[int, int]
) -> "asyncio.Future[T]":
    if key not in slots:
        slots[key] = asyncio.get_running_loop().create_future()
    return slots[key]


def _fill(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[T]", error: StepAborted) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting; that is no error of its own
