"""The client's part in unequal machines: from how long steps take to how many each pipeline takes.

Trainers report the seconds of a step every second; the plan follows, and goes back with the next
answer. A pipeline that slows down is planned anew as soon as its reports say so.
"""

from collections.abc import Collection

from distqatd.roles.context import Context
from distqatd.swarm.pace import Measured, plan_paces


class Pacing:
    """Plans the paces of pipelines for the holder of the client's duty."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._diloco = context.config.diloco
        self._step_s: dict[int, float] = {}
        self._held: dict[int, float] = {}

    def begin(self) -> None:
        """Begin a term: trainers keep the paces they have until they have reported."""
        self._step_s.clear()
        self._held.clear()

    def note(self, pipeline: int, step_s: float) -> None:
        """Take note of how long a step of a pipeline takes; 0.0: not known yet."""
        if step_s > 0:
            self._step_s[pipeline] = step_s

    def pace(self, pipeline: int, active: Collection[int]) -> float:
        """Return the steps of a pipeline for each of the run; 0.0: as many as it takes now.

        Args:
            pipeline: who asks.
            active: the pipelines that train.
        """
        by_batch = not self._diloco.batch_size_per_step
        if not by_batch and not self._diloco.dylu:
            return 1.0
        self._step_s = {n: step_s for n, step_s in self._step_s.items() if n in active}
        measured = Measured(self._step_s, self._held, self._diloco.inner_steps, by_batch)
        plan = plan_paces(measured)
        self._held = {n: self._held[n] for n in self._held if n in active}
        for number, decision in plan.items():
            if self._held.get(number) != decision.value:
                self._held[number] = decision.value
                self._tell(number, decision.value, decision.reason)
        return self._held.get(pipeline, 0.0)

    def _tell(self, pipeline: int, pace: float, reason: str) -> None:
        self._context.note("pace", f"pipeline {pipeline}", reason)
        self._context.events.emit(
            "pace.planned", pipeline=pipeline, pace=round(pace, 3), reason=reason
        )
