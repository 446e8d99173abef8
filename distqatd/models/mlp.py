"""A multilayer perceptron: the smallest model worth splitting, for tests and first swarms."""

from functools import partial
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit


class MlpOptions(Options):
    """Options of `mlp`."""

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64, 64, 64, 10), min_length=2, description="values into each layer, and out of the last"
    )


class MlpLayer(nn.Linear):
    """Flatten, apply a linear map and, except in the last layer, a ReLU.

    Shapes: float (B, ...) with `in_features` values per sample -> float (B, out_features).
    """

    def __init__(self, in_features: int, out_features: int, *, last: bool) -> None:
        super().__init__(in_features, out_features)
        self.last = last

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the layer."""
        values = super().forward(inputs.flatten(1))
        return values if self.last else values.relu()


def mlp_units(options: MlpOptions) -> tuple[Unit, ...]:
    """Return one unit per layer: `layer0`, `layer1`, ..."""
    sizes = list(pairwise(options.sizes))
    return tuple(
        Unit(
            f"layer{index}",
            f"layers.{index}.",
            partial(MlpLayer, inputs, outputs, last=index == len(sizes) - 1),
        )
        for index, (inputs, outputs) in enumerate(sizes)
    )


def mlp_cuts(options: MlpOptions) -> Cuts:
    """Return the cuts: halves, or first layer | middle | last layer."""
    layers = len(options.sizes) - 1
    return Cuts(half=layers // 2, body=1, tail=layers - 1)


MLP = Family("mlp", MlpOptions, mlp_units, mlp_cuts)
