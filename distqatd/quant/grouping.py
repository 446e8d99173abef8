"""Which values of a weight share a step: all, those of an output channel, or a run of them.

Shapes: G groups, M values in each.
"""
# ruff: noqa: N803  names end in the letters of their shape

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a weight of one shape is cut into groups.

    Attributes:
        shape: of the weight.
        granularity: `tensor`: one group; `channel`: one for each output channel (each row of an
            embedding); `group`: runs of `group_size` values of a channel, the last filled up with
            zeros.
        axis: dimension of the output channels.
        group_size: values in a run.
    """

    shape: tuple[int, ...]
    granularity: Granularity
    axis: int = 0
    group_size: int = 32

    @property
    def num_groups(self) -> int:
        """Return G."""
        if self.granularity == "tensor":
            return 1
        return self.shape[self.axis] * (self._per_channel // self.num_values)

    @property
    def num_values(self) -> int:
        """Return M."""
        if self.granularity == "tensor":
            return math.prod(self.shape)
        return self._per_channel if self.granularity == "channel" else self.group_size

    @property
    def _per_channel(self) -> int:
        """Return how many values a channel has, filled up."""
        num = math.prod(self.shape) // max(self.shape[self.axis], 1)
        return num if self.granularity == "channel" else num + -num % self.group_size

    def split(self, weight: Tensor) -> Tensor:
        """Return a weight as (G, M)."""
        if self.granularity == "tensor":
            return weight.reshape(1, -1)
        rows = weight.movedim(self.axis, 0).reshape(self.shape[self.axis], -1)
        missing = self._per_channel - rows.shape[1]
        return (F.pad(rows, (0, missing)) if missing else rows).reshape(self.num_groups, -1)

    def join(self, values_GM: Tensor) -> Tensor:
        """Return (G, M) as a weight: the inverse of `split`.

        It is contiguous: products have other bits if the same weight lies otherwise in memory.
        """
        if self.granularity == "tensor":
            return values_GM.reshape(self.shape)
        channels = self.shape[self.axis]
        rest = [size for dim, size in enumerate(self.shape) if dim != self.axis]
        rows = values_GM.reshape(channels, -1)[:, : math.prod(rest)]
        return rows.reshape(channels, *rest).movedim(0, self.axis).contiguous()
