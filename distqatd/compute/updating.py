"""Inner steps of a stage: gradients clipped, at the rate of the moment, or gathered for later."""

from torch import nn

from distqatd.compute.gathering import Gathered
from distqatd.compute.gradients import drop_grads
from distqatd.compute.inner_state import InnerOptimizer
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import InnerOptimConfig
from distqatd.optim.inner import clip


class InnerUpdates:
    """Updates one stage from its gradients.

    Attributes:
        optimizer: what updates it.
    """

    def __init__(self, stage: nn.Module, config: InnerOptimConfig, schedule: RunSchedule) -> None:
        """Make the optimizer.

        Raises:
            ConfigError: the stage has no trainable parameters.
        """
        self.optimizer = InnerOptimizer(stage.parameters(), config)
        self._stage = stage
        self._schedule = schedule
        self._max_grad_norm = config.max_grad_norm
        self._gathered = Gathered(stage.parameters())
        self._outer_step, self._position = 0, 0.0

    def update(
        self, grad_norm: float, outer_step: int, num_steps: int, num_samples: int, pace: float
    ) -> None:
        """Take an inner step.

        Args:
            grad_norm: of the gradients.
            outer_step: of the anchor.
            num_steps: steps before this one since the last outer step.
            num_samples: of this step.
            pace: steps taken here for one of the run. From two on, the gradients of so many are
                gathered into one update; what is left of them comes with the next `flush`.
        """
        every = round(pace)
        self._outer_step, self._position = outer_step, num_steps / pace
        if every <= 1 and not self._gathered.num_steps:
            self._step(grad_norm)
            return
        self._gathered.add(num_samples)
        if self._gathered.num_steps >= every:
            self.flush()

    def flush(self) -> None:
        """Update the stage from what was gathered, if anything was."""
        if self._gathered.num_steps:
            self._step(self._gathered.give())
            drop_grads(self._stage.parameters())

    def drop(self) -> None:
        """Forget what was gathered."""
        self._gathered.drop()

    def _step(self, grad_norm: float) -> None:
        if self._max_grad_norm is not None:
            params = self._stage.parameters()
            grads = [param.grad for param in params if param.grad is not None]
            clip(grads, grad_norm, self._max_grad_norm)
        self.optimizer.step(self._schedule.lr_factor(self._outer_step, self._position))
