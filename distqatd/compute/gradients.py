"""The gradients that an inner step has added up: their norm, whether they are finite, dropping."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


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
