"""The trainer's own part of a step where it computes the loss (`loss_at: trainer`)."""

from torch import Tensor

from distqatd.base.errors import NonFinite, StepAborted
from distqatd.compute.executor import Executor
from distqatd.compute.payload import torch_sink
from distqatd.compute.precision import in_float32
from distqatd.compute.results import LossResult
from distqatd.data.tasks import Task
from distqatd.net.rpc import Caller, Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.links import NOTHING, Link, Parcels
from distqatd.wire.payload import Message

TRAINER = "trainer"
"""How the desk signs a veto."""


class LossDesk:
    """Answers `pipeline.loss` for the trainers of this daemon (`loss_at: trainer`)."""

    def __init__(
        self, rpc: Rpc, executor: Executor, task: Task, max_bytes: int, link: Link | None = None
    ) -> None:
        """Serve from now on; `link` is the one behind the last stage."""
        self._link = link or Link()
        self._executor = executor
        self._task = task
        self._targets: dict[tuple[m.SessionId, int, int], tuple[Tensor, ...]] = {}
        self._losses: dict[tuple[m.SessionId, int, int], LossResult] = {}
        rpc.serve(m.LOSS, self._serve, max_bytes=max_bytes, sink=torch_sink)

    def expect(self, call: m.MicrobatchCall, targets: tuple[Tensor, ...]) -> None:
        """Keep the targets of a microbatch until its outputs come."""
        self._targets[call.session, call.step, call.microbatch] = targets

    def take(self, call: m.MicrobatchCall) -> LossResult | None:
        """Return the microbatch's loss, once, and forget the microbatch."""
        key = (call.session, call.step, call.microbatch)
        self._targets.pop(key, None)
        return self._losses.pop(key, None)

    async def _serve(self, _: Caller, message: Message) -> Message:
        call = m.MicrobatchCall.read(message.body)
        key = (call.session, call.step, call.microbatch)
        targets = self._targets.get(key)
        if targets is None:
            raise StepAborted(f"step {call.step} of session {call.session} is not in flight here")
        arrived = Parcels.read(message)

        def work() -> tuple[LossResult, Parcels]:
            scale = call.scale * call.loss_scale
            result, grads = self._loss(self._link.unpack_all(arrived), targets, scale)
            try:
                return result, self._link.pack(grads)
            except NonFinite:
                return result, NOTHING

        result, grads = await self._executor.run(work)
        self._losses[key] = result
        return grads.message({"vetoes": [TRAINER]} if grads is NOTHING else {})

    def _loss(
        self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...], scale: float
    ) -> tuple[LossResult, tuple[Tensor | None, ...]]:
        leaves = tuple(output.requires_grad_(output.is_floating_point()) for output in outputs)
        made = in_float32(leaves)
        loss = self._task.loss(made, targets)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        result = LossResult(loss.item(), self._task.metrics(made, targets))
        return result, tuple(leaf.grad for leaf in leaves)
