"""The trainer's side of a step: send microbatches along a route, then COMMIT or ABORT.

A step is decided when every microbatch is answered. From then on it is committed: the decision
travels with the next step's microbatches, or as COMMIT where none follows at once and after a
failure, until each stage that lives has applied it. Before it is decided, any failure drops the
step and the batch is replayed.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Coroutine
from dataclasses import replace
from typing import Any

from torch import Tensor

from distqatd.base.errors import DistqatError, NetworkError, NonFinite, StepAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.base.rng import stable_seed
from distqatd.compute.payload import torch_sink
from distqatd.compute.results import LossResult
from distqatd.config.sections import DilocoConfig, ModelPipelineConfig
from distqatd.data.batches import Batch
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.desk import LossDesk
from distqatd.pipeline.ending import Ending, end_session
from distqatd.pipeline.outcome import (
    StepResult,
    check_not_lost,
    read_link_bytes,
    read_loss,
    read_standings,
    read_vetoes,
    sum_up,
)
from distqatd.pipeline.scaling import LossScaling
from distqatd.pipeline.tensors import wired
from distqatd.pipeline.together import all_of, attended
from distqatd.pipeline.watch import Watch
from distqatd.swarm.routes import Hop, Route
from distqatd.wire.payload import Message

NUM_TIMES = 64
"""Steps of the route whose duration is remembered."""


class RouteRunner:
    """Runs steps over one route under one session. Used by one task at a time.

    Attributes:
        route: the experts, in pipeline order.
        session: under which they take our steps.
        pace: steps that the route takes between two rounds for each inner step of the run.
        standings: where each expert stood when it was last heard.
        scaling: the loss scale; None in other precisions than fp16.
    """

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
        step_s = pipeline.forward_timeout + pipeline.backward_timeout
        self._call_s = step_s + diloco.averaging_timeout
        self._settle_s = pipeline.forward_timeout
        self._step = 0
        self._link_bytes = 0
        self._decided: m.Decided | None = None
        self._watch = Watch(route, self._ask_where, step_s)
        self._times: deque[float] = deque(maxlen=NUM_TIMES)
        self.standings: dict[ExpertUid, m.Standing] = {}
        self.pace = 1.0
        self.scaling: LossScaling | None = None
        self._vetoes: set[str] = set()

    @property
    def unconfirmed(self) -> int | None:
        """Return the batch that is committed, but perhaps not applied by every stage yet."""
        return self._committed.batch if self._committed is not None else None

    @property
    def _committed(self) -> m.Decided | None:
        """Return what is decided and perhaps not heard, if it is a COMMIT."""
        return None if self._decided is None or self._decided.drops else self._decided

    @property
    def outer_step(self) -> int:
        """Return the lowest committed outer step among the route's stages."""
        return min((s.outer_step for s in self.standings.values()), default=0)

    @property
    def round_is_next(self) -> bool:
        """Return whether some stage has a round before it takes a step after the decided one."""
        pending = 1 if self._committed is not None else 0
        stages = self.standings.values()
        return any(s.in_round or s.steps_to_round - pending <= 0 for s in stages)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that the link to a peer broke; a step through it fails if it is gone."""
        self._watch.lost(peer_id, reason)

    # --- the session

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

    async def open(self, first: int = 0, end: int = 0) -> int:
        """Take every expert of the route into the session.

        Returns:
            The first batch of the lease [first, end) that a stage of the route has not applied;
            `end` if there is none.
        """
        m.learn_route(self._rpc, self.route)
        num_microbatches = self._diloco.num_microbatches

        async def one(hop: Hop) -> None:
            call = m.OpenCall(
                hop.uid,
                self.session,
                self.route,
                num_microbatches,
                self._desk is not None,
                first,
                end,
            )
            await self._ask_standing(hop, m.OPEN, call.body(), self._settle_s)

        await all_of(one(hop) for hop in self.route)
        return self._first_missing()

    async def find(self, first: int, end: int) -> int:
        """Return what `open` does, for another lease within the session."""

        async def one(hop: Hop) -> None:
            call = m.AskCall(hop.uid, self.session, first, end)
            await self._ask_standing(hop, m.STANDING, call.body(), self._settle_s)

        await all_of(one(hop) for hop in self.route)
        return self._first_missing()

    def _first_missing(self) -> int:
        return min(standing.next_batch for standing in self.standings.values())

    # --- a step

    async def step(self, batch: Batch, number: int) -> StepResult:
        """Run batch `number` through the route; what is decided of the one before goes along.

        If the result has vetoes, all stages drop the step: run the batch again.

        Raises:
            NonFinite: the loss is NaN or infinite; or gradients, and no loss scale helps.
            HopLost: a stage is gone or does not answer.
            DistqatError: whatever failed first; call `abort`, then replay the batch.
        """
        self._step += 1
        self._link_bytes = 0
        self._vetoes.clear()
        began = asyncio.get_running_loop().time()
        parts = batch.split(self._diloco.num_microbatches)
        results: dict[int, LossResult] = {}

        async def one(index: int, part: Batch) -> None:
            results[index] = await self._microbatch(index, part, batch.num_samples, number)

        await self._attended(all_of(one(i, part) for i, part in enumerate(parts)))
        result = sum_up(self._step, results, parts, batch.num_samples)
        result = replace(result, link_bytes=self._link_bytes, vetoes=tuple(sorted(self._vetoes)))
        self._decided = self._decide(batch.num_samples, number)
        self._times.append(asyncio.get_running_loop().time() - began)
        return result

    def _decide(self, num_samples: int, number: int) -> m.Decided:
        """Decide the step, of which every stage has done its part.

        Raises:
            NonFinite: a stage has vetoed it, and a smaller loss scale cannot be the remedy.
        """
        scaling = self.scaling
        scale = scaling.scale if scaling is not None else None
        decided = m.Decided(self._step, num_samples, number, scale, drops=bool(self._vetoes))
        if not decided.drops:
            if scaling is not None:
                scaling.good()
        elif scaling is None or not scaling.overflowed():
            names = ", ".join(sorted(self._vetoes))
            raise NonFinite(f"gradients of {names} have NaN or infinite values; step dropped")
        return decided

    async def _microbatch(
        self, index: int, part: Batch, num_samples: int, number: int
    ) -> LossResult:
        desk = self._desk
        scale = self.scaling.scale if self.scaling is not None else None
        call = m.MicrobatchCall(
            self.route[0].uid,
            self.session,
            self._step,
            index,
            part.num_samples / num_samples,
            stable_seed(self._seed, "step", number, index),
            0 if desk is not None else len(part.targets),
            self._decided,
            self.pace,
            scale.value if scale is not None else 1.0,
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
        message = Message(call.body(), wired(tensors))
        first = self.route[0].peer_id
        reply = await self._rpc.call(
            first, m.FORWARD, message, timeout_s=self._call_s, sink=torch_sink
        )
        check_not_lost(reply)
        self._link_bytes += message.tensor_bytes + reply.tensor_bytes + read_link_bytes(reply)
        self._vetoes.update(read_vetoes(reply))
        for hop, standing in zip(self.route, read_standings(reply), strict=False):
            self.standings[hop.uid] = m.Standing.read(standing)
        return read_loss(reply)

    # --- COMMIT, ABORT, rounds

    async def flush(self) -> None:
        """Have the last decided step applied by every stage."""
        decided = self._decided
        if decided is None:
            return

        async def one(hop: Hop) -> None:
            call = m.CommitCall(hop.uid, self.session, decided)
            await self._ask_standing(hop, m.COMMIT, call.body(), self._call_s)

        await self._attended(all_of(one(hop) for hop in self.route))
        self._decided = None

    async def abort(self, reason: str, lost: Collection[str] = ()) -> Ending:
        """Commit what was decided wherever a stage lives, then drop the open step everywhere.

        Args:
            reason: for the stages.
            lost: uids of stages that are known to be gone; they are not waited for.
        """
        decided, self._decided = self._committed, None
        return await end_session(
            self._rpc, self.route, self.session, decided, reason, lost, self._events
        )

    async def wait_round(self) -> None:
        """Return when no stage of the route has a round due or running."""

        async def one(hop: Hop) -> None:
            body = m.AskCall(hop.uid, self.session).body()
            await self._ask_standing(hop, m.ROUND, body, self._call_s)

        await self._attended(all_of(one(hop) for hop in self.route))

    # --- plumbing

    async def _attended(self, work: Coroutine[Any, Any, None]) -> None:
        await attended(work, self._watch.run(self._times))

    async def _ask_where(self, hop: Hop, timeout_s: float) -> m.Standing:
        body = m.AskCall(hop.uid, self.session).body()
        reply = await self._rpc.call(hop.peer_id, m.STANDING, Message(body), timeout_s=timeout_s)
        return m.Standing.read(reply.body)

    async def _ask_standing(
        self, hop: Hop, method: str, body: dict[str, object], timeout_s: float
    ) -> None:
        reply = await self._rpc.call(hop.peer_id, method, Message(body), timeout_s=timeout_s)
        self.standings[hop.uid] = m.Standing.read(reply.body)
