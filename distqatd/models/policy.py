"""A small policy for reinforcement learning: from what is observed to scores of the actions.

Names: `layers.0.weight`, `layers.0.bias`, ...

Shapes: B observations, O values in each, A actions.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit


class PolicyOptions(Options):
    """Options of `policy`; the defaults fit CartPole."""

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 64, 2), min_length=3, description="values observed, widths between, actions"
    )


class PolicyLayer(nn.Linear):
    """A linear map and, except in the last layer, a tanh: float (B, O) -> logits (B, A)."""

    def __init__(self, in_features: int, out_features: int, *, last: bool) -> None:
        super().__init__(in_features, out_features)
        self.last = last
        if last:
            # All actions start about equally likely: an early preference is hard to unlearn.
            nn.init.normal_(self.weight, std=0.01)
            nn.init.zeros_(self.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Run the layer."""
        values = super().forward(observations)
        return values if self.last else values.tanh()


def policy_units(options: PolicyOptions) -> tuple[Unit, ...]:
    """Return one unit per layer: `layer0`, `layer1`, ..."""
    sizes = list(pairwise(options.sizes))
    return tuple(
        Unit(
            f"layer{index}",
            f"layers.{index}.",
            partial(PolicyLayer, inputs, outputs, last=index == len(sizes) - 1),
        )
        for index, (inputs, outputs) in enumerate(sizes)
    )


def policy_cuts(options: PolicyOptions) -> Cuts:
    """Return the cuts: halves, or first layer | middle | last layer."""
    layers = len(options.sizes) - 1
    return Cuts(half=layers // 2, body=1, tail=layers - 1)


POLICY = Family("policy", PolicyOptions, policy_units, policy_cuts)
