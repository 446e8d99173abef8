"""One microbatch through a stage: forward, on to the next one, and backward with its answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from distqatd.base.errors import ConnectionClosed, DialError, HopLost, StepAborted
from distqatd.base.ids import PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.compute.payload import to_wire, torch_sink
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import Outcome, check_not_lost
from distqatd.pipeline.session import Session
from distqatd.pipeline.tensors import read_gradients
from distqatd.wire.payload import Message

T = TypeVar("T")

PRIORITY_SETTLE = 0
PRIORITY_BACKWARD = 1
PRIORITY_FORWARD = 2
PRIORITY_EVALUATE = 3
"""Order of work on the device: what ends a step, then what frees memory, then what takes it."""


class Push:
    """Takes microbatches through one expert.

    Args:
        expert: the stage.
        executor: of its device.
        rpc: how the next stage is called.
        call_s: how long it may take to answer.
    """

    def __init__(self, expert: Expert, executor: Executor, rpc: Rpc, call_s: float) -> None:
        self._expert = expert
        self._uid = expert.uid
        self._executor = executor
        self._rpc = rpc
        self._call_s = call_s

    async def run(
        self, session: Session, call: m.MicrobatchCall, tensors: tuple[Tensor, ...]
    ) -> Outcome:
        """Go forward, through whatever comes after this stage, and backward.

        Raises:
            HopLost: a later stage cannot be reached.
            StepAborted: the session has ended meanwhile.
        """
        num_inputs = len(tensors) - call.num_targets
        inputs, targets = tensors[:num_inputs], tensors[num_inputs:]
        if session.is_last and not session.loss_at_trainer:
            loss, grads = await self._compute(
                session,
                lambda: self._expert.loss_backward(
                    call.microbatch, inputs, targets, call.scale, call.seed
                ),
                PRIORITY_BACKWARD,
            )
            return Outcome(grads, (), loss)
        outputs = await self._compute(
            session,
            lambda: self._expert.forward(call.microbatch, inputs, call.seed),
            PRIORITY_FORWARD,
        )
        reply = await self._ask_gradients(session, call, outputs, targets)
        returned = read_gradients(reply, len(outputs))
        grads = await self._compute(
            session,
            lambda: self._expert.backward(call.microbatch, returned),
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
        """Send outputs to the next stage, or to the trainer for the loss; return the reply.

        Raises:
            HopLost: a later stage cannot be reached.
        """
        if session.is_last:
            peer, uid, method = PeerId(session.trainer), self._uid, m.LOSS
        else:
            hop = session.route[session.position + 1]
            peer, uid, method = hop.peer_id, hop.uid, m.FORWARD
        sent = (*(output.detach() for output in outputs), *targets)
        tensors = tuple(to_wire(str(i), tensor) for i, tensor in enumerate(sent))
        message = Message(replace(call, uid=uid).body(), tensors)
        try:
            reply = await self._rpc.call(
                peer, method, message, timeout_s=self._call_s, sink=torch_sink
            )
        except (ConnectionClosed, DialError) as error:
            if session.is_last:
                raise  # the trainer is gone: there is nobody to tell
            raise HopLost(f"{self._uid} cannot reach {uid}: {error}", uid) from error
        check_not_lost(reply)
        return reply

    async def _compute(self, session: Session, work: Callable[[], T], priority: int) -> T:
        """Run work on the device, unless the session has ended by the time its turn comes."""

        def guarded() -> T:
            if session.is_closed:
                raise StepAborted(f"session {session.id} is closed: {session.close_reason}")
            return work()

        return await self._executor.run(guarded, priority=priority)
