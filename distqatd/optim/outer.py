"""The outer optimizer of DiLoCo: Nesterov SGD, or Adam, on the averaged pseudo-gradient.

P = flattened parameters, float32, CPU.

Every member of a round applies the same step to the same bits and must get the same bits, on
whatever processor. So no fused multiply-add: torch's `add(x, alpha=a)` rounds once where the
processor has one and twice where it has not. A multiply and then an add round the same everywhere,
and so do division and square root, which IEEE 754 rounds correctly; powers are products.
The price: `torch.optim.SGD`, which fuses, differs by one unit in the last place here and there.
"""
# ruff: noqa: N803, N806  names end in the letter of their shape

from collections.abc import Mapping

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError, NonFinite
from distqatd.config.schedules import OuterRule
from distqatd.config.sections import OuterOptimConfig

MOMENTUM = "momentum"
SECOND_MOMENT = "second_moment"


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


def state_names(config: OuterOptimConfig) -> tuple[str, ...]:
    """Return the names of the optimizer's state tensors, each of P elements."""
    return (MOMENTUM, SECOND_MOMENT) if config.type == "adam" else (MOMENTUM,)


class OuterOptimizer:
    """Nesterov SGD with the update rule of `torch.optim.SGD`, or Adam, over flat parameters.

    Functional in its tensors: `step` makes a new anchor and new moments and never writes to
    the old ones, so snapshots may keep both without a copy.
    """

    def __init__(self, config: OuterOptimConfig, num_params: int) -> None:
        """Start with moments of zero."""
        self._config = config
        self._state = {name: torch.zeros(num_params) for name in state_names(config)}

    def step(
        self, anchor_P: Tensor, pseudo_gradient_P: Tensor, rule: OuterRule, count: int
    ) -> Tensor:
        """Return the next anchor as a new tensor and advance the moments.

        Args:
            anchor_P: the anchor.
            pseudo_gradient_P: mean of the members'.
            rule: learning rate and momentum of sgd, or of the warm start.
            count: which step of the optimizer this is, from 1; adam corrects its bias by it.
        """
        if rule.is_warm_start:
            return anchor_P - pseudo_gradient_P * rule.lr
        if self._config.type == "adam":
            return self._adam(anchor_P, pseudo_gradient_P, count)
        return self._sgd(anchor_P, pseudo_gradient_P, rule)

    def _sgd(self, anchor_P: Tensor, gradient_P: Tensor, rule: OuterRule) -> Tensor:
        """Return the anchor after: momentum = m * momentum + g.

        anchor - lr * (g + m * momentum) with Nesterov, anchor - lr * momentum without.
        """
        momentum_P = (self._state[MOMENTUM] * rule.momentum).add_(gradient_P)
        self._state = {MOMENTUM: momentum_P}
        if not self._config.sgd_nesterov:
            return anchor_P - momentum_P * rule.lr
        update_P = (momentum_P * rule.momentum).add_(gradient_P)
        return anchor_P - update_P.mul_(rule.lr)

    def _adam(self, anchor_P: Tensor, gradient_P: Tensor, count: int) -> Tensor:
        """Return the anchor after a step of Adam [source: arXiv:1412.6980, algorithm 1].

        As an outer optimizer: FedAdam, arXiv:2003.00295, with its large eps.
        """
        beta1, beta2 = self._config.adam_betas
        first_P = (self._state[MOMENTUM] * beta1).add_(gradient_P * (1 - beta1))
        square_P = gradient_P * gradient_P
        second_P = (self._state[SECOND_MOMENT] * beta2).add_(square_P.mul_(1 - beta2))
        self._state = {MOMENTUM: first_P, SECOND_MOMENT: second_P}
        root_P = (second_P / (1 - _power(beta2, count))).sqrt_().add_(self._config.adam_eps)
        update_P = (first_P / (1 - _power(beta1, count))).mul_(self._config.adam_lr)
        return anchor_P - update_P.div_(root_P)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state by name, each (P). Not copied; never written to again."""
        return dict(self._state)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `state_tensors` gave, by reference.

        Raises:
            CheckpointError: a tensor is missing or has another length.
        """
        for name, own in self._state.items():
            found = tensors.get(name)
            if found is None or found.shape != own.shape:
                shape = None if found is None else tuple(found.shape)
                wanted = tuple(own.shape)
                raise CheckpointError(f"outer {name} has shape {shape}, this stage needs {wanted}")
        self._state = {name: tensors[name] for name in self._state}


def _power(base: float, exponent: int) -> float:
    """Return base to the exponent by products alone: C libraries round `pow` differently."""
    result, factor = 1.0, base
    while exponent:
        if exponent & 1:
            result *= factor
        factor *= factor
        exponent >>= 1
    return result
