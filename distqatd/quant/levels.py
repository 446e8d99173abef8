"""Rounding to integer multiples of a step, with the gradients of LSQ.

[source: Esser et al. 2020, Learned Step Size Quantization, arXiv:1902.08153, equations 1 to 5]

Shapes: G groups, M values that share a step.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

import math
from typing import Any

import torch
from torch import Tensor

Bound = float | Tensor
"""The lowest or highest integer: a number, or a tensor that broadcasts."""

SMALLEST_STEP = 2.0**-60
"""Steps are never below it: a division by one is finite for every sensible value."""


def fake_quantise(
    values_GM: Tensor, step_G1: Tensor, low: Bound, high: Bound, step_grad_scale: float = 1.0
) -> Tensor:
    """Return values rounded to multiples of their step: clamp(round(v / s), low, high) * s.

    The gradient of values is passed where they lie in [low, high] steps, and 0 beyond. That of a
    step is, summed over its values, round(v/s) - v/s inside and the bound beyond, times
    `step_grad_scale`.

    Shapes: any that broadcast; the result has that of `values_GM`.
    """
    given = (values_GM, step_G1, low, high, step_grad_scale)
    found: Tensor = _FakeQuantise.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _FakeQuantise(torch.autograd.Function):
    """One operation instead of six: nothing but v/s and the integers is kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        values_GM: Tensor,
        step_G1: Tensor,
        low: Bound,
        high: Bound,
        step_grad_scale: float,
    ) -> Tensor:
        scaled_GM = values_GM / step_G1
        codes_GM = round_to_codes(scaled_GM, low, high)
        ctx.save_for_backward(scaled_GM, codes_GM, *_tensors(low, high))
        ctx.bounds, ctx.step_shape = (low, high), step_G1.shape
        ctx.step_grad_scale = step_grad_scale
        return codes_GM * step_G1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_GM,) = grads
        scaled_GM, codes_GM, *bounds = ctx.saved_tensors
        low, high = bounds or ctx.bounds
        is_inside_GM = (scaled_GM >= low) & (scaled_GM <= high)
        grad_values = grad_GM * is_inside_GM if ctx.needs_input_grad[0] else None
        grad_step = None
        if ctx.needs_input_grad[1]:
            slope_GM = codes_GM - torch.where(is_inside_GM, scaled_GM, 0.0)
            total = (grad_GM * slope_GM).sum_to_size(ctx.step_shape)
            grad_step = total * ctx.step_grad_scale
        return grad_values, grad_step, None, None, None


def _tensors(low: Bound, high: Bound) -> tuple[Tensor, ...]:
    """Return bounds that are tensors: autograd wants to know of what is kept."""
    return (low, high) if isinstance(low, Tensor) and isinstance(high, Tensor) else ()


def round_to_codes(scaled: Tensor, low: Bound, high: Bound) -> Tensor:
    """Return the nearest integers within bounds, as floats; ties go to even."""
    return torch.clamp(torch.round(scaled), low, high)  # type: ignore[arg-type]


def signed_range(bits: int) -> tuple[int, int]:
    """Return the lowest and highest integer of `bits` bits, two's complement."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def step_grad_scale(num_values: int, high: int) -> float:
    """Return the paper's g = 1 / sqrt(N Q): updates of a step as large as those of its weights."""
    return 1.0 / math.sqrt(max(num_values, 1) * high)


def trained_step(base: Tensor, log_gain: Tensor) -> Tensor:
    """Return base * exp(log_gain), a step that SGD moves as if it were trained itself.

    As a product it stays positive whatever inner and outer optimizers do, Adam moves it by a share
    of itself, and weight decay pulls it to where it began. The gradient g of the step becomes g / s
    for log_gain, not g * s as by the chain rule: a small move of log_gain by SGD then is the move
    of the step that the paper's update makes.

    Shapes: any that broadcast; `base` is positive and not trained.
    """
    found: Tensor = _TrainedStep.apply(base, log_gain)  # type: ignore[no-untyped-call]
    return found


class _TrainedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, log_gain: Tensor) -> Tensor:
        step = (base * log_gain.exp()).clamp_min(SMALLEST_STEP)
        ctx.save_for_backward(step)
        ctx.shape = log_gain.shape
        return step

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (step,) = ctx.saved_tensors
        return None, (grad / step).sum_to_size(ctx.shape)
