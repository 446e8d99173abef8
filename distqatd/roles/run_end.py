"""The end of the run: all experts have taken the last outer step, their anchors are evaluated.

A client that takes the duty over in the middle of this evaluates again, or finds in the last
holder's record that it is done.
"""

import asyncio
from collections.abc import Iterable

from distqatd.base.ids import PeerId
from distqatd.roles.context import Context
from distqatd.roles.evaluator import Evaluator
from distqatd.swarm.records import LeaseRecord
from distqatd.swarm.routes import Route
from distqatd.swarm.view import SwarmView

AGREE_S = 30.0
"""Replicas with different anchors get so long to agree before the run is evaluated, seconds."""

NO_EVALUATION_S = 60.0
"""A run that nobody can evaluate is finished without after so long, seconds."""


class RunEnd:
    """Sees that the run is over and has it evaluated."""

    def __init__(self, context: Context, evaluator: Evaluator) -> None:
        self._context = context
        self._evaluator = evaluator
        self.is_over = False
        self.is_finished = False
        self.finished_unix_s = 0.0
        self._done_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, record: LeaseRecord | None) -> None:
        """Go on where the holder before this one was, as far as its record tells."""
        self.stop()
        self.is_over = self.is_finished = record is not None and record.is_finished
        if record is not None:
            self.finished_unix_s = record.finished_unix_s

    def stop(self) -> None:
        """Leave the end of the run to another client."""
        self.is_over = self.is_finished = False
        self._done_at = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def look(self, view: SwarmView, routes: Iterable[Route], trainers: Iterable[PeerId]) -> bool:
        """Begin the evaluation once all serving experts have taken the last outer step.

        It begins again at a later look if it failed.

        Args:
            view: the swarm.
            routes: complete ones, best first.
            trainers: who may evaluate, best first.

        Returns:
            Whether the run is over from this look on: it was not before.
        """
        is_busy = self._task is not None and not self._task.done()
        if self.is_finished or is_busy or not (self.is_over or self._is_done(view)):
            return False
        was_over, self.is_over = self.is_over, True
        self.finished_unix_s = self.finished_unix_s or self._context.clock.now()
        work = self._finish([*routes], [*trainers])
        self._task = self._context.tasks.spawn(work, name="client.evaluate")
        return not was_over

    def _is_done(self, view: SwarmView) -> bool:
        last = self._context.config.diloco.outer_steps
        serving = [expert for stage in view.stages for expert in stage.serving]
        if view.gaps or any(expert.record.outer_step < last for expert in serving):
            return False
        now = asyncio.get_running_loop().time()
        if self._done_at is None:
            self._done_at = now
        # Replicas that took a step apart are about to agree.
        return not _differ(view) or now - self._done_at >= AGREE_S

    async def _finish(self, routes: list[Route], trainers: list[PeerId]) -> None:
        """Have any trainer evaluate any route; the next look tries again if none can."""
        now, done_at = asyncio.get_running_loop().time(), self._done_at
        may_retry = done_at is not None and now - done_at < NO_EVALUATION_S
        last = self._context.config.diloco.outer_steps
        if not await self._evaluator.any(routes, trainers, last) and may_retry:
            return
        found = self._evaluator.newest
        self.is_finished = True
        self._context.events.emit(
            "run.finished",
            loss=found.loss,
            accuracy=found.accuracy,
            mean_return=found.mean_return,
            outer_steps=last,
        )
        self._context.directory.look_now()


def _differ(view: SwarmView) -> bool:
    """Return whether replicas of a stage hold different anchors for the same outer step."""
    anchors = {
        (stage.name, expert.record.outer_step, expert.record.anchor_digest)
        for stage in view.stages
        for expert in stage.serving
    }
    return len({(stage, step) for stage, step, _ in anchors}) < len(anchors)
