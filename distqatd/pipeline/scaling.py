"""The trainer's side of the loss scale: what each step is multiplied by, in `fp16-mixed`."""

from collections.abc import Iterable

from distqatd.compute.scale import LossScale
from distqatd.config.data import DataConfig


class LossScaling:
    """The loss scale of one pipeline.

    Attributes:
        scale: of the next step; None in other precisions, whose losses are not multiplied.
    """

    def __init__(self, config: DataConfig) -> None:
        is_used = config.precision == "fp16-mixed"
        self.scale = LossScale(config.loss_scale) if is_used else None
        self._growth_steps = config.loss_scale_growth
        self._is_new = True
        self._before: LossScale | None = None

    def adopt(self, known: Iterable[LossScale | None]) -> None:
        """Go on where the stages of a route say that the last trainer was; once, at the start."""
        last = [scale for scale in known if scale is not None]
        if self.scale is not None and self._is_new and last:
            lowest = min(last, key=lambda scale: (scale.value, scale.num_good))
            self.scale = lowest.after_good(self._growth_steps)
        self._is_new = False

    def good(self) -> None:
        """Take note of a step with finite gradients."""
        self._before = None
        if self.scale is not None:
            self.scale = self.scale.after_good(self._growth_steps)

    def overflowed(self) -> bool:
        """Take note of a step with others; return whether a smaller scale may help."""
        if self.scale is None or self.scale.is_smallest:
            return False
        self._before = self._before or self.scale
        self.scale = self.scale.after_overflow()
        return True

    def given_up(self) -> None:
        """Take note that no scale helps a batch: go back to the one from before it."""
        if self._before is not None:
            self.scale, self._before = self._before, None
