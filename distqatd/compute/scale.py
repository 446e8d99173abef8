"""The loss scale of `fp16-mixed`: gradients are multiplied by it, so that small ones survive fp16.

The trainer keeps it, as it is the one for a step of all stages: it halves when the gradients of
any stage overflow, and doubles after enough steps without [source: Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2]. Stages remember the last one, for a trainer that takes over, and
with the state of their inner optimizer, for a run that is resumed.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

SMALLEST = 1.0
LARGEST = 2.0**32


@dataclass(frozen=True, slots=True)
class LossScale:
    """A scale, and for how many steps it has been good.

    Attributes:
        value: a power of two from SMALLEST to LARGEST: multiplying by it changes no digit.
        num_good: steps with finite gradients since it last changed.
    """

    value: float
    num_good: int = 0

    @property
    def is_smallest(self) -> bool:
        """Return whether it cannot be halved any more."""
        return self.value <= SMALLEST

    def after_good(self, growth_steps: int) -> "LossScale":
        """Return the scale after a step with finite gradients; it doubles every `growth_steps`."""
        if self.num_good + 1 < growth_steps:
            return LossScale(self.value, self.num_good + 1)
        return LossScale(min(self.value * 2, LARGEST))

    def after_overflow(self) -> "LossScale":
        """Return the scale after a step that a stage has vetoed."""
        return LossScale(max(self.value / 2, SMALLEST))

    def body(self) -> list[Any]:
        """Return the scale as it travels, and as it is kept in snapshots."""
        return [self.value, self.num_good]

    @classmethod
    def read(cls, value: object) -> Self:
        """Check and return a scale.

        Raises:
            ValueError: it is none.
        """
        shown = str(value)[:40]
        if not isinstance(value, list) or [type(part) for part in value] != [float, int]:
            raise ValueError(f"{shown!r} is no loss scale")
        scale, num_good = value
        is_power = SMALLEST <= scale <= LARGEST and math.frexp(scale)[0] == 0.5
        if not is_power or not 0 <= num_good < 2**53:
            raise ValueError(f"{shown!r} is no loss scale: a power of two up to 2^32, and a count")
        return cls(scale, num_good)
