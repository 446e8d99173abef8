"""Trying out one stage's anchor while training goes on."""

from torch import Tensor

from distqatd.compute.executor import Executor
from distqatd.compute.expert import Expert, LossResult
from distqatd.compute.precision import in_float32
from distqatd.data.tasks import Task
from distqatd.pipeline.push import PRIORITY_EVALUATE


class Evaluation:
    """Evaluates the anchor of one expert on its device; training state is not touched."""

    def __init__(self, expert: Expert, executor: Executor, task: Task) -> None:
        """Evaluate `expert`; `task` is asked for losses where it hosts the last stage."""
        self._expert = expert
        self._executor = executor
        self._task = task

    async def outputs(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the anchor's outputs, in evaluation mode."""
        return await self._executor.run(
            lambda: self._expert.evaluate(inputs), priority=PRIORITY_EVALUATE
        )

    async def measure(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> LossResult:
        """Return the loss and the metric sums of outputs against targets."""

        def work() -> LossResult:
            made = in_float32(outputs)
            loss = self._task.loss(made, targets).item()
            return LossResult(loss, self._task.metrics(made, targets))

        return await self._executor.run(work, priority=PRIORITY_EVALUATE)
