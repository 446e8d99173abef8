"""The outer optimizer of DiLoCo: Nesterov SGD, or Adam, on the averaged pseudo-gradient.

P = flattened parameters, F = those that take the step, all or a range of them; float32, CPU.

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

EVERYTHING = slice(None)


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
        self,
        anchor_F: Tensor,
        pseudo_gradient_F: Tensor,
        rule: OuterRule,
        count: int,
        span: slice = EVERYTHING,
    ) -> Tensor:
        """Return the next anchor as a new tensor and advance the moments.

        Args:
            anchor_F: the anchor, or the part of it that takes the step.
            pseudo_gradient_F: mean of the members'.
            rule: learning rate and momentum of sgd, or of the warm start.
            count: which step of the optimizer this is for the part, from 1; adam corrects its
                bias by it.
            span: where the part lies in P; the moments of the others stay.
        """
        if rule.is_warm_start:
            return anchor_F - pseudo_gradient_F * rule.lr
        if self._config.type == "adam":
            return self._adam(anchor_F, pseudo_gradient_F, count, span)
        return self._sgd(anchor_F, pseudo_gradient_F, rule, span)

    def _sgd(self, anchor_F: Tensor, gradient_F: Tensor, rule: OuterRule, span: slice) -> Tensor:
        """Return the anchor after: momentum = m * momentum + g.

        anchor - lr * (g + m * momentum) with Nesterov, anchor - lr * momentum without.
        """
        momentum_F = (self._state[MOMENTUM][span] * rule.momentum).add_(gradient_F)
        self._keep(span, {MOMENTUM: momentum_F})
        if not self._config.sgd_nesterov:
            return anchor_F - momentum_F * rule.lr
        update_F = (momentum_F * rule.momentum).add_(gradient_F)
        return anchor_F - update_F.mul_(rule.lr)

    def _adam(self, anchor_F: Tensor, gradient_F: Tensor, count: int, span: slice) -> Tensor:
        """Return the anchor after a step of Adam [source: arXiv:1412.6980, algorithm 1].

        As an outer optimizer: FedAdam, arXiv:2003.00295, with its large eps.
        """
        beta1, beta2 = self._config.adam_betas
        first_F = (self._state[MOMENTUM][span] * beta1).add_(gradient_F * (1 - beta1))
        square_F = gradient_F * gradient_F
        second_F = (self._state[SECOND_MOMENT][span] * beta2).add_(square_F.mul_(1 - beta2))
        self._keep(span, {MOMENTUM: first_F, SECOND_MOMENT: second_F})
        root_F = (second_F / (1 - _power(beta2, count))).sqrt_().add_(self._config.adam_eps)
        update_F = (first_F / (1 - _power(beta1, count))).mul_(self._config.adam_lr)
        return anchor_F - update_F.div_(root_F)

    def _keep(self, span: slice, moments: Mapping[str, Tensor]) -> None:
        """Take the moments of a part, in new tensors: snapshots hold the old ones."""
        for name, moment_F in moments.items():
            old_P = self._state[name]
            if moment_F.shape == old_P.shape:
                self._state[name] = moment_F
                continue
            new_P = old_P.clone()
            new_P[span] = moment_F
            self._state[name] = new_P

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
