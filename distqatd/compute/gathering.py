"""Gradients of several steps gathered into one update: a larger batch for a fast machine."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distqatd.compute.gradients import drop_grads, grad_norm


class Gathered:
    """Sums of gradients, weighted by samples. Takes as much memory as the parameters while any.

    Kept apart from the gradients of the open step, which may still be dropped.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self._params = [param for param in params if param.requires_grad]
        self._sums: list[Tensor | None] = []
        self._num_samples = 0
        self.num_steps = 0

    def add(self, num_samples: int) -> None:
        """Take the gradients of a step, means over so many samples, and drop them."""
        if not self.num_steps:
            self._sums = [None] * len(self._params)
        for index, param in enumerate(self._params):
            if param.grad is not None:
                held, more = self._sums[index], param.grad * num_samples
                self._sums[index] = more if held is None else held.add_(more)
        drop_grads(self._params)
        self._num_samples += num_samples
        self.num_steps += 1

    @torch.no_grad()
    def give(self) -> float:
        """Make the mean over all samples the parameters' gradients; return their norm."""
        for param, held in zip(self._params, self._sums, strict=True):
            param.grad = None if held is None else held.div_(self._num_samples)
        self.drop()
        return grad_norm(self._params)

    def drop(self) -> None:
        """Forget what was gathered."""
        self._sums, self._num_samples, self.num_steps = [], 0, 0
