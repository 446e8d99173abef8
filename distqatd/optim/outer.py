"""The outer optimizer of DiLoCo: Nesterov SGD on the averaged pseudo-gradient.

P = flattened parameters, float32, CPU.

Every member of a round applies the same step to the same bits and must get the same bits, on
whatever processor. So no fused multiply-add: torch's `add(x, alpha=a)` rounds once where the
processor has one and twice where it has not. A multiply and then an add round the same everywhere.
The price: `torch.optim.SGD`, which fuses, differs by one unit in the last place here and there.
"""
# ruff: noqa: N803, N806  names end in the letter of their shape

from collections.abc import Mapping

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError, NonFinite
from distqatd.config.sections import OuterOptimConfig


def pseudo_gradient(anchor_P: Tensor, local_P: Tensor) -> Tensor:
    """Return anchor - local, the outer optimizer's gradient.

    Source: DiLoCo, arXiv:2311.08105, Algorithm 1. Returns a new tensor; modifies nothing.

    Raises:
        NonFinite: the difference has a NaN or an infinity.
    """
    gradient_P = anchor_P - local_P
    if not bool(torch.isfinite(gradient_P).all()):
        raise NonFinite("the pseudo-gradient has NaN or infinite values; local parameters diverged")
    return gradient_P


class OuterOptimizer:
    """Nesterov SGD over flat parameters, with the update rule of `torch.optim.SGD`, not fused.

    Functional in its tensors: `step` makes a new anchor and a new momentum and never writes to
    the old ones, so snapshots may keep both without a copy.
    """

    def __init__(self, config: OuterOptimConfig, num_params: int) -> None:
        self._config = config
        self._momentum_P = torch.zeros(num_params)

    def step(self, anchor_P: Tensor, pseudo_gradient_P: Tensor) -> Tensor:
        """Return the next anchor as a new tensor and advance the momentum.

        momentum = m * momentum + g;  anchor - lr * (g + m * momentum) with Nesterov,
        anchor - lr * momentum without.
        """
        factor = self._config.sgd_momentum
        momentum_P = (self._momentum_P * factor).add_(pseudo_gradient_P)
        self._momentum_P = momentum_P
        if not self._config.sgd_nesterov:
            return anchor_P - momentum_P * self._config.sgd_lr
        update_P = (momentum_P * factor).add_(pseudo_gradient_P)
        return anchor_P - update_P.mul_(self._config.sgd_lr)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state by name: `momentum` (P). Not copied; never written to again."""
        return {"momentum": self._momentum_P}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `state_tensors` gave, by reference.

        Raises:
            CheckpointError: `momentum` is missing or has another length.
        """
        momentum_P = tensors.get("momentum")
        if momentum_P is None or momentum_P.shape != self._momentum_P.shape:
            found = None if momentum_P is None else tuple(momentum_P.shape)
            wanted = tuple(self._momentum_P.shape)
            raise CheckpointError(f"outer momentum has shape {found}, this stage needs {wanted}")
        self._momentum_P = momentum_P
