"""One microbatch through a stage: forward, on to the next one, and backward with its answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    HopLost,
    NonFinite,
    OutOfMemory,
    StepAborted,
)
from distqatd.base.ids import PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert
from distqatd.compute.payload import torch_sink
from distqatd.compute.results import LossResult
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.links import NOTHING, Link, Links, Parcels
from distqatd.pipeline.outcome import Outcome, check_not_lost
from distqatd.pipeline.session import Session
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
        links: of the pipeline.
    """

    def __init__(
        self, expert: Expert, executor: Executor, rpc: Rpc, call_s: float, links: Links
    ) -> None:
        self._expert = expert
        self._uid = expert.uid
        self._executor = executor
        self._rpc = rpc
        self._call_s = call_s
        self._links = links

    async def run(self, session: Session, call: m.MicrobatchCall, arrived: Parcels) -> Outcome:
        """Go forward, through whatever comes after this stage, and backward.

        Raises:
            HopLost: a later stage cannot be reached.
            StepAborted: the session has ended meanwhile.
            NonFinite: the loss is, or outputs are and the link's codec would hide it.
            RemoteProtocolError: what came is not what the links of this pipeline carry.
        """
        packed, targets = arrived.cut(len(arrived.tensors) - call.num_targets)
        before = self._links.behind(session.position - 1)
        behind = self._links.behind(session.position)
        if session.is_last and not session.loss_at_trainer:

            def end() -> tuple[LossResult, Parcels, tuple[str, ...]]:
                inputs = before.unpack_all(packed)
                loss, grads = self._expert.loss_backward(
                    call.microbatch, inputs, targets, call.scale * call.loss_scale, call.seed
                )
                return loss, *self._give_back(session, before, grads)

            loss, grads, vetoes = await self._compute(session, end, PRIORITY_BACKWARD)
            return Outcome(grads, (), loss, 0, vetoes)

        def forward() -> Parcels:
            inputs = before.unpack_all(packed)
            return behind.pack(self._expert.forward(call.microbatch, inputs, call.seed))

        outputs = await self._compute(session, forward, PRIORITY_FORWARD)
        sent, reply = await self._ask_gradients(session, call, outputs, targets)
        returned = Parcels.read(reply)

        def backward() -> tuple[Parcels, tuple[str, ...]]:
            grads = behind.unpack(returned, len(outputs.tensors))
            given = self._expert.backward(call.microbatch, grads)
            return self._give_back(session, before, given)

        grads, vetoes = await self._compute(session, backward, PRIORITY_BACKWARD)
        return Outcome.after(sent, reply, grads, vetoes)

    def _give_back(
        self, session: Session, before: Link, grads: tuple[Tensor | None, ...]
    ) -> tuple[Parcels, tuple[str, ...]]:
        """Return the gradients for the stage before us, and our veto if there is one.

        That is known before the step is decided: the last microbatch of it brings it along.
        """
        veto = (self._uid,)
        if self._expert.gradients_overflow(session.num_microbatches):
            return NOTHING, veto
        try:
            return before.pack(grads), ()
        except NonFinite:
            return NOTHING, veto  # as a codec cannot carry them; the step is lost anyway

    async def _ask_gradients(
        self,
        session: Session,
        call: m.MicrobatchCall,
        outputs: Parcels,
        targets: tuple[Tensor, ...],
    ) -> tuple[Message, Message]:
        """Send outputs to the next stage, or to the trainer for the loss; return it and the reply.

        Raises:
            HopLost: a later stage cannot be reached.
        """
        if session.is_last:
            peer, uid, method = PeerId(session.trainer), self._uid, m.LOSS
        else:
            hop = session.route[session.position + 1]
            peer, uid, method = hop.peer_id, hop.uid, m.FORWARD
        message = outputs.message(replace(call, uid=uid).body(), targets)
        try:
            reply = await self._rpc.call(
                peer, method, message, timeout_s=self._call_s, sink=torch_sink
            )
        except (ConnectionClosed, DialError) as error:
            if session.is_last:
                raise  # the trainer is gone: there is nobody to tell
            raise HopLost(f"{self._uid} cannot reach {uid}: {error}", uid) from error
        check_not_lost(reply)
        return message, reply

    async def _compute(self, session: Session, work: Callable[[], T], priority: int) -> T:
        """Run work on the device, unless the session has ended by the time its turn comes."""

        def guarded() -> T:
            if session.is_closed:
                raise StepAborted(f"session {session.id} is closed: {session.close_reason}")
            return work()

        try:
            return await self._executor.run(guarded, priority=priority)
        except OutOfMemory:
            session.is_short = True  # not that of a later stage, whose error comes back this way
            raise
