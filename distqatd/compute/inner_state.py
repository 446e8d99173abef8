"""The inner optimizer of an expert, and its state as a few flat tensors.

One tensor per slot, not one per parameter: a state of thousands of small tensors would travel one
round trip each. `inner.<slot>` holds the slot of all parameters that have it, one after the other
in the order of the stage's trained parameters, float32 (16-bit types fit in exactly), CPU. Slots
are `momentum_buffer` for SGD with momentum; `exp_avg`, `exp_avg_sq` and `step` (one number per
parameter) for Adam and AdamW.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from distqatd.base.errors import CheckpointError
from distqatd.compute.results import INNER_PREFIX, Snapshot
from distqatd.config.sections import InnerOptimConfig
from distqatd.optim.inner import make_inner_optimizer

SCALARS = ("step",)
"""Slots that hold one number per parameter."""

InnerState = dict[nn.Parameter, dict[str, Tensor]]


class InnerOptimizer:
    """The optimizer of inner steps, which can be made anew and restored."""

    def __init__(self, params: Iterable[nn.Parameter], config: InnerOptimConfig) -> None:
        """Make a fresh one over those `params` that require a gradient.

        Raises:
            ConfigError: none does, or the configuration contradicts itself.
        """
        self._params = [param for param in params if param.requires_grad]
        self._config = config
        self._optimizer = make_inner_optimizer(self._params, config)

    def step(self) -> None:
        """Update the parameters from their gradients."""
        self._optimizer.step()

    def restart(self, state: InnerState | None) -> None:
        """Start over, from a state that `read` gave or from none."""
        self._optimizer = make_inner_optimizer(self._params, self._config)
        for param, slots in (state or {}).items():
            self._optimizer.state[param] = slots

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the state by name: float32, CPU, as large as the parameters per slot."""
        made = {}
        for slot in self._slots:
            parts = [self._optimizer.state[self._params[i]][slot] for i in self._holders(slot)]
            flat = [part.detach().reshape(-1).to("cpu", torch.float32) for part in parts]
            if flat:
                made[INNER_PREFIX + slot] = torch.cat(flat).clone()
        return made

    def holders(self) -> dict[str, list[int]]:
        """Return which parameters have each slot, by their number: those with a gradient so far."""
        held = {slot: self._holders(slot) for slot in self._slots}
        return {slot: numbers for slot, numbers in held.items() if numbers}

    def read(self, snapshot: Snapshot) -> InnerState:
        """Return the state that a snapshot holds for these parameters; nothing is changed.

        Raises:
            CheckpointError: it is of another optimizer or of other parameters.
        """
        state: InnerState = {}
        holders = snapshot.meta.get("inner", {})
        if not isinstance(holders, dict) or not holders.keys() <= set(self._slots):
            raise CheckpointError("the snapshot's inner state is of another kind of optimizer")
        for slot, numbers in holders.items():
            values = self._split(slot, numbers, snapshot.tensors)
            for number, value in values.items():
                state.setdefault(self._params[number], {})[slot] = value
        return state

    @property
    def _slots(self) -> tuple[str, ...]:
        if isinstance(self._optimizer, Adam):  # AdamW is one, too
            return ("exp_avg", "exp_avg_sq", "step")
        return ("momentum_buffer",)

    def _holders(self, slot: str) -> list[int]:
        states = [self._optimizer.state.get(param, {}) for param in self._params]
        return [number for number, state in enumerate(states) if state.get(slot) is not None]

    def _split(self, slot: str, numbers: Any, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Return a slot's tensors by the number of their parameter, in its shape and type."""
        known = range(len(self._params))
        if not isinstance(numbers, list) or not all(type(n) is int and n in known for n in numbers):
            raise CheckpointError(f"the snapshot's inner {slot} is of parameters we have not")
        flat = tensors.get(INNER_PREFIX + slot)
        sizes = [1 if slot in SCALARS else self._params[number].numel() for number in numbers]
        if flat is None or flat.shape != (sum(sizes),) or len(set(numbers)) != len(numbers):
            raise CheckpointError(f"the snapshot has no inner {slot} of {sum(sizes)} elements")
        parts = torch.split(flat, sizes)
        return {n: self._shaped(slot, n, part) for n, part in zip(numbers, parts, strict=True)}

    def _shaped(self, slot: str, number: int, values: Tensor) -> Tensor:
        if slot in SCALARS:
            return values[0].clone()
        # With the parameter's own strides, as the optimizer itself makes it.
        param = self._params[number]
        return torch.empty_like(param, requires_grad=False).copy_(values.view(param.shape))
