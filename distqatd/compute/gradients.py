"""The gradients that an inner step has added up: their norm, whether they are finite, dropping."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def drop_grads(params: Iterable[Tensor]) -> None:
    """Forget all gradients and free their memory."""
    for param in params:
        param.grad = None


def grad_norm(params: Iterable[Tensor]) -> float:
    """Return the Euclidean norm of all gradients together, in float32; 0.0 if there are none.

    NaN if any gradient is NaN or infinite. Squares of large but finite gradients overflow: their
    norm is infinity, and that is no fault of the step.
    """
    grads = [param.grad for param in params if param.grad is not None]
    if not grads:
        return 0.0
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in grads]
    norm: float = torch.linalg.vector_norm(torch.stack(norms)).item()
    # A closer look costs a pass over all gradients, so only if the norm says that it is needed.
    if not math.isfinite(norm) and not all(bool(torch.isfinite(grad).all()) for grad in grads):
        return math.nan
    return norm


class StepGradients:
    """The gradients of the open step, of the parameters that are trained."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self._params = [param for param in params if param.requires_grad]
        self._norm: float | None = None

    def check(self) -> bool:
        """Return whether all are finite. They are complete: the norm is kept for `settle`."""
        self._norm = grad_norm(self._params)
        return not math.isnan(self._norm)

    def settle(self, scale: float) -> float:
        """Take out the scale that the loss was multiplied by; return the norm, NaN as above."""
        norm = grad_norm(self._params) if self._norm is None else self._norm
        if scale != 1.0:
            grads = [param.grad for param in self._params if param.grad is not None]
            torch._foreach_mul_(grads, 1.0 / scale)
        return norm / scale

    def drop(self) -> None:
        """Forget them."""
        self._norm = None
        drop_grads(self._params)

    def params_are_finite(self) -> bool:
        """Return whether the parameters themselves are."""
        return all(bool(torch.isfinite(param).all()) for param in self._params)
