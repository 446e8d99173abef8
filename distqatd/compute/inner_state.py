"""The inner optimizer of an expert, and its state as a few flat tensors.

One tensor per slot, not one per parameter: a state of thousands of small tensors would travel one
round trip each. `inner.<slot>` holds the slot of all parameters that have it, one after the other
in the order of the stage's trained parameters, float32 (16-bit types fit in exactly), CPU. Slots
are `momentum_buffer` for SGD with momentum; `exp_avg`, `exp_avg_sq` and `step` (one number per
parameter) for Adam and AdamW; for other optimizers whatever a trial step on two small parameters
leaves behind. An optimizer whose state is neither a number nor of its parameter's shape
(Adafactor) has no slots here: it starts afresh wherever state is loaded.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from distqatd.base.errors import CheckpointError
from distqatd.compute.results import INNER_PREFIX, Snapshot
from distqatd.compute.scale import LossScale
from distqatd.config.sections import InnerOptimConfig
from distqatd.optim.inner import make_inner_optimizer

InnerState = dict[nn.Parameter, dict[str, Tensor]]


class InnerOptimizer:
    """The optimizer of inner steps, which can be made anew and restored.

    Attributes:
        loss_scale: of the last step; None in another precision than fp16, and before the first.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: InnerOptimConfig) -> None:
        """Make a fresh one over those `params` that require a gradient.

        Raises:
            ConfigError: none does, or the configuration contradicts itself.
        """
        self._params = [param for param in params if param.requires_grad]
        self._config = config
        self._optimizer = make_inner_optimizer(self._params, config)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._factor = 1.0
        self.loss_scale: LossScale | None = None

    def step(self, lr_factor: float = 1.0) -> None:
        """Update the parameters from their gradients, at a share of the learning rate."""
        if lr_factor != self._factor:
            self._factor = lr_factor
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * lr_factor
        self._optimizer.step()

    def restart(self, state: InnerState | None) -> None:
        """Start over, from a state that `read` gave or from none."""
        self._optimizer = make_inner_optimizer(self._params, self._config)
        self._factor = 1.0
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

    @cached_property
    def _slots(self) -> dict[str, bool]:
        """Return the names of what can be carried, and whether it is one number a parameter."""
        return trial_slots(self._config)

    def _holders(self, slot: str) -> list[int]:
        states = [self._optimizer.state.get(param, {}) for param in self._params]
        return [number for number, state in enumerate(states) if state.get(slot) is not None]

    def _split(self, slot: str, numbers: Any, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Return a slot's tensors by the number of their parameter, in its shape and type."""
        known = range(len(self._params))
        if not isinstance(numbers, list) or not all(type(n) is int and n in known for n in numbers):
            raise CheckpointError(f"the snapshot's inner {slot} is of parameters we have not")
        flat = tensors.get(INNER_PREFIX + slot)
        is_number = self._slots[slot]
        sizes = [1 if is_number else self._params[number].numel() for number in numbers]
        if flat is None or flat.shape != (sum(sizes),) or len(set(numbers)) != len(numbers):
            raise CheckpointError(f"the snapshot has no inner {slot} of {sum(sizes)} elements")
        parts = torch.split(flat, sizes)
        return {n: self._shaped(slot, n, part) for n, part in zip(numbers, parts, strict=True)}

    def _shaped(self, slot: str, number: int, values: Tensor) -> Tensor:
        if self._slots[slot]:
            return values[0].clone()
        # With the parameter's own strides, as the optimizer itself makes it.
        param = self._params[number]
        return torch.empty_like(param, requires_grad=False).copy_(values.view(param.shape))


def trial_slots(config: InnerOptimConfig) -> dict[str, bool]:
    """Return the slots of an optimizer after one step; True for those of one number.

    Slots that hold something else than a tensor (a flag, None) are left out; one tensor of
    another shape than its parameter's, and the optimizer has no slots at all.
    """
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (5, 4))]
    optimizer = make_inner_optimizer(params, config)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    slots: dict[str, bool] = {}
    for param in params:
        for name, value in optimizer.state[param].items():
            if not isinstance(value, Tensor):
                continue
            if value.ndim and value.shape != param.shape:
                return {}
            slots[name] = not value.ndim
    return dict(sorted(slots.items()))
