"""Quantizers of weights, as parametrisations: the master weight stays as it is, in full precision.

A module with one computes with rounded weights; its `parametrizations.weight.original` is what
the optimizer updates, what is averaged over replicas, saved and exported.

Shapes: G groups, M values in each, see `grouping`.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

import math
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from distqatd.config.quant import WeightQuantConfig
from distqatd.quant.grouping import Grouping
from distqatd.quant.levels import (
    SMALLEST_STEP,
    fake_quantise,
    round_to_codes,
    signed_range,
    step_grad_scale,
    trained_step,
)

_TRIED = 64
"""Steps that are tried to find the best one for a given weight."""


class WeightQuantizer(nn.Module):
    """Base: rounds a weight to `bits` bits, symmetric around 0, a step for each group.

    Attributes:
        bits: 2 to 8.
        low: the lowest integer, -2^(bits-1).
        high: the highest, 2^(bits-1) - 1.
        grouping: which values share a step.
    """

    def __init__(self, scheme: WeightQuantConfig, weight: Tensor, axis: int) -> None:
        super().__init__()
        assert scheme.bits is not None  # noqa: S101  what is not rounded has no quantizer
        self.bits = scheme.bits
        self.low, self.high = signed_range(self.bits)
        shape = tuple(weight.shape)
        self.grouping = Grouping(shape, scheme.granularity, axis, scheme.group_size)

    def step(self, values_GM: Tensor) -> Tensor:
        """Return the step of each group (G, 1), float32, positive."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight; differentiable."""
        values_GM = self.grouping.split(weight)
        step_G1 = self.step(values_GM)
        scale = step_grad_scale(self.grouping.num_values, self.high)
        return self.grouping.join(fake_quantise(values_GM, step_G1, self.low, self.high, scale))

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers int8 (G, M) and steps (G, 1) whose product `forward` returns."""
        values_GM = self.grouping.split(weight)
        step_G1 = self.step(values_GM)
        return round_to_codes(values_GM / step_G1, self.low, self.high).to(torch.int8), step_G1


class MakesWeightQuantizer(Protocol):
    """What makes a quantizer for a weight, such as its class."""

    def __call__(self, scheme: WeightQuantConfig, weight: Tensor, axis: int) -> WeightQuantizer:
        """Return a quantizer for `weight`; `axis` is that of its output channels."""
        ...


class LearnedStepWeights(WeightQuantizer):
    """Steps are trained with the weights [source: Esser et al. 2020, arXiv:1902.08153].

    A step is a share of the root mean square of its weights, and that share is trained. So it
    follows weights that grow: a step that only its own gradient moves is left behind by them when
    training begins from random weights (the paper begins from trained ones). It begins where the
    squared error of rounding a normal distribution is least.

    Attributes:
        log_gain: (G, 1), trained: the step is best_share(bits) * rms * exp(log_gain).
    """

    def __init__(self, scheme: WeightQuantConfig, weight: Tensor, axis: int) -> None:
        super().__init__(scheme, weight, axis)
        self.log_gain = nn.Parameter(torch.zeros(self.grouping.num_groups, 1))
        self._share = best_share(self.bits)

    def step(self, values_GM: Tensor) -> Tensor:
        """Return the trained steps for these weights."""
        rms_G1 = values_GM.detach().square().mean(1, keepdim=True).sqrt()
        return trained_step(rms_G1 * self._share, self.log_gain)


class MinMaxWeights(WeightQuantizer):
    """Steps follow the weights: the largest of a group is the outermost level. Nothing trained."""

    def step(self, values_GM: Tensor) -> Tensor:
        """Return the steps for these weights."""
        # Half a step more than the highest integer still rounds to it.
        peaks_G1 = values_GM.detach().abs().amax(1, keepdim=True)
        return (peaks_G1 / (self.high + 0.5)).clamp_min(SMALLEST_STEP)


@cache
def best_share(bits: int) -> float:
    """Return the step that rounds a normal distribution with the least squared error, / its rms."""
    # Drawn in float64 and without a generator: every machine gets the same.
    quantiles = torch.linspace(-1, 1, 1 << 17, dtype=torch.float64, device="cpu")[1:-1]
    normal_GM = (torch.erfinv(quantiles) * math.sqrt(2.0)).unsqueeze(0)
    return float(best_step(normal_GM, *signed_range(bits)) / normal_GM.square().mean().sqrt())


@torch.no_grad()
def best_step(values_GM: Tensor, low: int, high: int) -> Tensor:
    """Return the steps (G, 1) with the least squared error of rounding, of those tried."""
    widest_G1 = values_GM.abs().amax(1, keepdim=True).clamp_min(SMALLEST_STEP) / (high + 0.5)
    best_G1, least_G1 = widest_G1, torch.full_like(widest_G1, torch.inf)
    for tried in range(_TRIED):
        step_G1 = widest_G1 * (1.0 - tried / (_TRIED + 1))
        rounded_GM = round_to_codes(values_GM / step_G1, low, high) * step_G1
        error_G1 = (rounded_GM - values_GM).square().sum(1, keepdim=True)
        is_better_G1 = error_G1 < least_G1
        best_G1 = torch.where(is_better_G1, step_G1, best_G1)
        least_G1 = torch.where(is_better_G1, error_G1, least_G1)
    return best_G1
