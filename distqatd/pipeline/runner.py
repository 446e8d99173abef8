"""The trainer's side of a step: send microbatches along a route, then COMMIT or ABORT.

A step is decided when every microbatch is answered. From then on it is committed: the decision
travels with the next step's microbatches, or as COMMIT where none follows at once and after a
failure, until each stage that lives has applied it. Before it is decided, any failure drops the
step and the batch is replayed.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distqatd.base.errors import DistqatError, NetworkError, NonFinite, StepAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.base.rng import stable_seed
from distqatd.compute.executor import Executor
from distqatd.compute.expert import LossResult
from distqatd.compute.payload import to_wire, torch_sink
from distqatd.config.sections import DilocoConfig, ModelPipelineConfig
from distqatd.data.batches import Batch
from distqatd.data.tasks import Task
from distqatd.net.rpc import Caller, Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import read_loss, read_standings
from distqatd.pipeline.tensors import pack_gradients, read_tensors
from distqatd.swarm.routes import Hop, Route
from distqatd.wire.payload import Message, WireTensor

ABORT_S = 5.0
"""A stage that does not take an ABORT within this many seconds counts as unreachable."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that every stage has done its part of.

    Attributes:
        loss: mean over the samples of the step.
        sums: metric sums of the step, see `data.tasks`.
    """

    step: int
    loss: float
    sums: dict[str, float]
    num_samples: int


class LossDesk:
    """Answers `pipeline.loss` for the trainers of this daemon (`loss_at: trainer`)."""

    def __init__(self, rpc: Rpc, executor: Executor, task: Task, max_bytes: int) -> None:
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
        outputs = read_tensors(message)
        result, grads = await self._executor.run(lambda: self._loss(outputs, targets, call.scale))
        self._losses[key] = result
        return pack_gradients(grads)

    def _loss(
        self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...], scale: float
    ) -> tuple[LossResult, tuple[Tensor | None, ...]]:
        leaves = tuple(output.requires_grad_() for output in outputs)
        loss = self._task.loss(leaves, targets)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        result = LossResult(loss.item(), self._task.metrics(leaves, targets))
        return result, tuple(leaf.grad for leaf in leaves)


class RouteRunner:
    """Runs steps over one route under one session. Used by one task at a time."""

    def __init__(
        self,
        rpc: Rpc,
        route: Route,
        session: m.SessionId,
        diloco: DilocoConfig,
        pipeline: ModelPipelineConfig,
        desk: LossDesk | None,
        events: EventLog,
        seed: int,
    ) -> None:
        self._rpc = rpc
        self.route = route
        self.session = session
        self._diloco = diloco
        self._desk = desk
        self._events = events
        self._seed = seed
        self._call_s = (
            pipeline.forward_timeout + pipeline.backward_timeout + diloco.averaging_timeout
        )
        self._settle_s = pipeline.forward_timeout
        self._step = 0
        self._decided: m.Decided | None = None
        self.standings: dict[ExpertUid, m.Standing] = {}
        self.unsettled: dict[Hop, m.CommitCall] = {}

    async def settle(self, earlier: dict[Hop, m.CommitCall]) -> None:
        """Deliver the COMMITs that an earlier runner could not, to the experts of this route.

        `earlier` is emptied of what was delivered, or came too late: OPEN would drop the step.

        Raises:
            NetworkError: an expert still cannot be reached.
        """
        m.learn_route(self._rpc, self.route)
        for hop in [hop for hop in self.route if hop in earlier]:
            try:
                body = earlier[hop].body()
                await self._rpc.call(hop.peer_id, m.COMMIT, Message(body), timeout_s=self._settle_s)
            except NetworkError:
                raise
            except DistqatError as error:
                self._events.emit("step.settled_late", uid=hop.uid, error=str(error))
            del earlier[hop]

    async def open(self) -> None:
        """Take every expert of the route into the session."""
        m.learn_route(self._rpc, self.route)
        num_microbatches = self._diloco.num_microbatches

        async def one(hop: Hop) -> None:
            call = m.OpenCall(
                hop.uid, self.session, self.route, num_microbatches, self._desk is not None
            )
            await self._ask_standing(hop, m.OPEN, call.body(), self._settle_s)

        await _all(one(hop) for hop in self.route)

    async def step(self, batch: Batch, number: int) -> StepResult:
        """Run batch `number` through the route; what is decided of the one before goes along.

        Raises:
            NonFinite: the loss is NaN or infinite.
            DistqatError: whatever failed first; call `abort`, then replay the batch.
        """
        self._step += 1
        parts = batch.split(self._diloco.num_microbatches)
        results: dict[int, LossResult] = {}

        async def one(index: int, part: Batch) -> None:
            results[index] = await self._microbatch(index, part, batch.num_samples, number)

        await _all(one(i, part) for i, part in enumerate(parts))
        result = self._summarise(results, parts, batch.num_samples)
        self._decided = m.Decided(self._step, batch.num_samples, number)
        return result

    def _summarise(
        self, results: dict[int, LossResult], parts: tuple[Batch, ...], num_samples: int
    ) -> StepResult:
        loss = sum(results[i].loss * part.num_samples for i, part in enumerate(parts)) / num_samples
        if loss - loss != 0.0:
            raise NonFinite(f"the loss of step {self._step} is {loss}; the step is dropped")
        sums: dict[str, float] = {}
        for result in results.values():
            for name, value in result.sums.items():
                sums[name] = sums.get(name, 0.0) + value
        return StepResult(self._step, loss, sums, num_samples)

    async def _microbatch(
        self, index: int, part: Batch, num_samples: int, number: int
    ) -> LossResult:
        desk = self._desk
        call = m.MicrobatchCall(
            self.route[0].uid,
            self.session,
            self._step,
            index,
            part.num_samples / num_samples,
            stable_seed(self._seed, "step", number, index),
            0 if desk is not None else len(part.targets),
            self._decided,
        )
        if desk is None:
            loss = await self._forward(call, (*part.inputs, *part.targets))
        else:
            desk.expect(call, part.targets)
            try:
                await self._forward(call, part.inputs)
            finally:
                loss = desk.take(call)
        if loss is None:
            raise StepAborted("the route answered without a loss")
        return loss

    async def _forward(
        self, call: m.MicrobatchCall, tensors: tuple[Tensor, ...]
    ) -> LossResult | None:
        message = Message(call.body(), _wired(tensors))
        first = self.route[0].peer_id
        reply = await self._rpc.call(
            first, m.FORWARD, message, timeout_s=self._call_s, sink=torch_sink
        )
        for hop, standing in zip(self.route, read_standings(reply), strict=False):
            self.standings[hop.uid] = m.Standing.read(standing)
        return read_loss(reply)

    # --- COMMIT, ABORT, rounds

    async def flush(self) -> None:
        """Have the last decided step applied by every stage."""
        decided = self._decided
        if decided is None:
            return
        await _all(self._commit(hop, decided, self._call_s) for hop in self.route)
        if self._decided is decided:
            self._decided = None

    async def _commit(self, hop: Hop, decided: m.Decided, timeout_s: float) -> None:
        call = m.CommitCall(hop.uid, self.session, decided)
        await self._ask_standing(hop, m.COMMIT, call.body(), timeout_s)

    async def abort(self, reason: str) -> tuple[PeerId, ...]:
        """Commit what was decided wherever a stage lives, then drop the open step everywhere.

        Returns:
            The peers that could not be reached; what they owe is in `unsettled`.
        """
        silent: list[PeerId] = []
        decided = self._decided

        async def one(hop: Hop) -> None:
            try:
                if decided is not None:
                    self.unsettled[hop] = m.CommitCall(hop.uid, self.session, decided)
                    await self._commit(hop, decided, ABORT_S)
                    del self.unsettled[hop]
                body = {"uid": hop.uid, **self.session.body(), "reason": reason}
                await self._rpc.call(hop.peer_id, m.ABORT, Message(body), timeout_s=ABORT_S)
            except DistqatError as error:
                if isinstance(error, NetworkError):
                    silent.append(hop.peer_id)
                else:
                    self.unsettled.pop(hop, None)
                # The stage is gone or serves somebody else; it drops the step by itself.
                self._events.emit("step.abort_unheard", uid=hop.uid, error=str(error))

        await _all(one(hop) for hop in self.route)
        self._decided = None
        return tuple(silent)

    @property
    def round_is_next(self) -> bool:
        """Return whether the decided step is the last before an outer step of some stage."""
        pending = 1 if self._decided is not None else 0
        return any(s.steps_to_round - pending <= 0 for s in self.standings.values())

    async def wait_round(self) -> None:
        """Return when no stage of the route has a round due or running."""

        async def one(hop: Hop) -> None:
            await self._ask_standing(hop, m.ROUND, {"uid": hop.uid}, self._call_s)

        await _all(one(hop) for hop in self.route)

    @property
    def outer_step(self) -> int:
        """Return the lowest committed outer step among the route's stages."""
        return min((s.outer_step for s in self.standings.values()), default=0)

    async def _ask_standing(
        self, hop: Hop, method: str, body: dict[str, object], timeout_s: float
    ) -> None:
        reply = await self._rpc.call(hop.peer_id, method, Message(body), timeout_s=timeout_s)
        self.standings[hop.uid] = m.Standing.read(reply.body)


async def evaluate(
    rpc: Rpc, route: Route, batches: Iterable[Batch], timeout_s: float
) -> dict[str, float]:
    """Run the anchors of a route over batches; return metric sums, see `data.tasks`."""
    totals: dict[str, float] = {}
    for batch in batches:
        values = _wired(batch.inputs)
        for hop in route[:-1]:
            body = {"uid": hop.uid, "num_inputs": len(values)}
            reply = await rpc.call(
                hop.peer_id, m.EVALUATE, Message(body, values), timeout_s=timeout_s
            )
            values = reply.tensors
        body = {"uid": route[-1].uid, "num_inputs": len(values)}
        message = Message(body, (*values, *_wired(batch.targets)))
        reply = await rpc.call(route[-1].peer_id, m.EVALUATE, message, timeout_s=timeout_s)
        result = read_loss(reply)
        for name, value in result.sums.items() if result is not None else ():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _wired(tensors: tuple[Tensor, ...]) -> tuple[WireTensor, ...]:
    return tuple(to_wire(str(i), tensor) for i, tensor in enumerate(tensors))


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; the first DistqatError cancels the others and is raised alone."""
    coroutines = list(work)
    if len(coroutines) == 1:
        await coroutines[0]
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)
    except* DistqatError as group:
        raise next(_leaves(group)) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
