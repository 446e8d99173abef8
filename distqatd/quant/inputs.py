"""Quantizers of what goes into a layer: one step for the whole tensor, and where 0 lies.

The range of the inputs is observed while training, as a moving average in two buffers. After an
outer step all replicas have the pooled range, see docs/quantisation.md. Until something was
observed, inputs pass as they are.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from distqatd.config.quant import InputQuantConfig
from distqatd.quant.levels import (
    SMALLEST_STEP,
    fake_quantise,
    round_to_codes,
    step_grad_scale,
    trained_step,
)


class InputQuantizer(nn.Module):
    """Base: rounds to `bits` bits over the observed range, which always contains 0.

    Attributes:
        bits: 2 to 8.
        range_min: lower end of the range, <= 0; a scalar.
        range_max: upper end, >= 0; both are 0 until something was observed.
    """

    range_min: Tensor
    range_max: Tensor

    def __init__(self, scheme: InputQuantConfig) -> None:
        super().__init__()
        assert scheme.bits is not None  # noqa: S101  what is not rounded has no quantizer
        self.bits = scheme.bits
        self.momentum = scheme.momentum
        self.num_steps = (1 << self.bits) - 1
        self.register_buffer("range_min", torch.zeros(()))
        self.register_buffer("range_max", torch.zeros(()))

    def step(self, base: Tensor) -> Tensor:
        """Return the step, given that by which the observed range has all levels; scalars."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Return rounded inputs of any shape; differentiable. Observes them when training.

        In float32 also where the model computes in 16 bits: steps and their gradients are sums.
        """
        if inputs.is_floating_point():
            inputs = inputs.float()
        if self.training:
            self._observe(inputs)
        step, low, high = self.levels()
        num_values = inputs[0].numel() if inputs.ndim else 1
        scale = step_grad_scale(num_values, self.num_steps)
        rounded = fake_quantise(inputs, step, low, high, scale)
        return rounded if self.training else torch.where(self.is_ready, rounded, inputs)

    @property
    def is_ready(self) -> Tensor:
        """Return whether something was observed, a bool scalar."""
        return self.range_max > self.range_min

    def levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return step, lowest and highest integer, float scalars; only the step is trained."""
        with torch.no_grad():
            width = self.range_max - self.range_min
            base = (width / self.num_steps).clamp_min(SMALLEST_STEP)
            low = torch.round(self.range_min / base)
        return self.step(base), low, low + self.num_steps

    @torch.no_grad()
    def _observe(self, inputs: Tensor) -> None:
        low = inputs.detach().amin().clamp(max=0.0).float()
        high = inputs.detach().amax().clamp(min=0.0).float()
        # At first all of it counts. Not in an `if`: that would wait for the device.
        weight = torch.where(self.is_ready, self.momentum, 1.0)
        self.range_min.lerp_(low, weight)
        self.range_max.lerp_(high, weight)


class MakesInputQuantizer(Protocol):
    """What makes a quantizer for a layer's input, such as its class."""

    def __call__(self, scheme: InputQuantConfig) -> InputQuantizer:
        """Return a quantizer."""
        ...


class LearnedStepInputs(InputQuantizer):
    """The step is trained [source: Esser et al. 2020, arXiv:1902.08153]; 0 lies where observed.

    Attributes:
        log_gain: a scalar, trained: the step is that of the observed range times exp(log_gain).
    """

    def __init__(self, scheme: InputQuantConfig) -> None:
        super().__init__(scheme)
        self.log_gain = nn.Parameter(torch.zeros(()))

    def step(self, base: Tensor) -> Tensor:
        """Return the trained step."""
        return trained_step(base, self.log_gain)


class MinMaxInputs(InputQuantizer):
    """Levels cover the observed range. Nothing is trained."""

    def step(self, base: Tensor) -> Tensor:
        """Return the step of the observed range."""
        return base


class FixedInputs(nn.Module):
    """Levels that do not change any more, as an export holds them.

    Attributes:
        step: a scalar; 0 leaves inputs as they are.
        low: lowest integer, a float scalar.
        high: highest integer, a float scalar.
    """

    step: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, step: Tensor, low: Tensor, high: Tensor) -> None:
        super().__init__()
        for name, value in (("step", step), ("low", low), ("high", high)):
            self.register_buffer(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return rounded inputs."""
        rounded = round_to_codes(inputs / self.step, self.low, self.high) * self.step
        return torch.where(self.step > 0, rounded, inputs)
