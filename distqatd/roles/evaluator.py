"""Evaluations of the anchor: at the end of the run, and now and then on the way.

Any trainer can evaluate any route. It reads all of the validation data, which is never divided
among trainers, and sends it through the anchors of the route, not through what is being trained.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.swarm.records import LeaseRecord
from distqatd.swarm.routes import Route, route_body
from distqatd.swarm.view import SwarmView
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

EVALUATE_S = 600.0


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came out of an evaluation; -1 where the task has no such metric.

    `outer_step` is that of the anchors when it began: the lowest, while stages are about to step.
    """

    outer_step: int = -1
    loss: float = -1.0
    accuracy: float = -1.0
    mean_return: float = -1.0


class Evaluator:
    """Has anchors evaluated for the holder of the client's duty, and keeps the newest result."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._every = context.config.diloco.evaluate_every
        self._last = context.config.diloco.outer_steps
        self._tried = 0
        self._task: asyncio.Task[None] | None = None
        self.newest = Evaluated()

    def begin(self, record: LeaseRecord | None) -> None:
        """Go on where the holder before this one was, as far as its record tells."""
        self.stop()
        if record is not None:
            self.newest = Evaluated(
                record.eval_outer_step, record.eval_loss, record.eval_accuracy, record.eval_return
            )
        self._tried = max(0, self.newest.outer_step)

    def stop(self) -> None:
        """Leave evaluations to another client."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def look(self, view: SwarmView, routes: Iterable[Route], trainers: Iterable[PeerId]) -> None:
        """Begin an evaluation if the anchors have come to an outer step that is due for one.

        One that fails is not tried again: the next one comes `evaluate_every` outer steps later.
        """
        is_busy = self._task is not None and not self._task.done()
        reached = self._reached(view)
        if is_busy or not self._every or reached // self._every <= self._tried // self._every:
            return
        if reached < self._last:  # the end of the run has its own
            self._tried = reached
            work = self._evaluate_once([*routes], [*trainers], reached)
            self._task = self._context.tasks.spawn(work, name="client.evaluate_anchor")

    def _reached(self, view: SwarmView) -> int:
        steps = [expert.record.outer_step for stage in view.stages for expert in stage.serving]
        return 0 if view.gaps else min(steps, default=0)

    async def _evaluate_once(
        self, routes: list[Route], trainers: list[PeerId], outer_step: int
    ) -> None:
        began = asyncio.get_running_loop().time()
        if not await self.any(routes, trainers, outer_step):
            return
        self._context.events.emit(
            "anchor.evaluated",
            outer_step=outer_step,
            loss=self.newest.loss,
            accuracy=self.newest.accuracy,
            mean_return=self.newest.mean_return,
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )
        self._context.directory.look_now()

    async def any(self, routes: list[Route], trainers: list[PeerId], outer_step: int) -> bool:
        """Have any trainer evaluate any route; return whether one did, then `newest` is it."""
        for route in routes:
            for trainer in trainers:
                if await self._evaluate(trainer, route, outer_step):
                    return True
        return False

    async def _evaluate(self, trainer: PeerId, route: Route, outer_step: int) -> bool:
        message = Message({"route": route_body(route)})
        try:
            reply = await self._context.rpc.call(
                trainer, calls.EVALUATE, message, timeout_s=EVALUATE_S
            )
            sums = need(reply.body, "sums", dict)
            loss = need(sums, "loss", float) / max(need(sums, "count", float), 1.0)
            accuracy = _mean(sums, "correct", "count")
            self.newest = Evaluated(outer_step, loss, accuracy, _mean(sums, "return", "episodes"))
        except DistqatError as error:
            self._context.events.emit("evaluation.failed", degraded=True, error=str(error))
            return False
        return True


def _mean(sums: Mapping[str, object], name: str, count: str) -> float:
    """Return the sum `name` over `count`, or -1 where the task has no such metric."""
    if name not in sums:
        return -1.0
    return need(sums, name, float) / max(need(sums, count, float), 1.0)
