"""Units, the atoms a model may be cut between, and the stage, a chain of them.

A unit is seeded by its own name, so whatever the cut and on whichever peer, the same unit starts
from the same bits and no weights have to be exchanged before the first step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distqatd.base.errors import CheckpointError
from distqatd.base.rng import stable_seed


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a model that is never cut.

    Attributes:
        name: unique in the model, a Python identifier; its weights are seeded by it.
        prefix: what turns a parameter name inside the module into the name in the whole model.
        build: makes the module, with fresh weights drawn from torch's CPU generator. Its forward
            takes and returns one tensor or several, batch dimension first.
        sample: makes what the module takes, for a batch size, where its author told: dtypes and
            shapes are checked before anything runs.
    """

    name: str
    prefix: str
    build: Callable[[], nn.Module]
    sample: Callable[[int], tuple[Tensor, ...]] | None = None


def build_unit(unit: Unit, seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """Build the module of `unit` with weights that depend on (`seed`, unit name) alone.

    Weights are drawn on the CPU and then moved, so that all devices start from the same bits; on
    `meta` nothing is drawn or allocated. The global CPU generator is left as it was found.
    """
    if torch.device(device).type == "meta":
        with torch.device("meta"), _NothingDrawn():
            return unit.build()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed, and not restore, every other device.
        torch.default_generator.manual_seed(stable_seed(seed, unit.name))
        module = unit.build()
    return module.to(device)


_PARAMETRISED = "parametrizations.weight."


def _outside(name: str) -> str:
    """Return a name inside a unit without what a quantised weight adds to it.

    The master keeps the name that the weight had. `weight_norm`, which has original0 and
    original1 and no quantizer, keeps its names.
    """
    before, found, after = name.rpartition(_PARAMETRISED)
    if found and after == "original":
        return f"{before}weight"
    if found and after.startswith("0."):
        return f"{before}weight_quantizer.{after.removeprefix('0.')}"
    return name


class _NothingDrawn(TorchFunctionMode):
    """Leaves weights as they are: to draw them on `meta`, torch imports sympy, which takes 1 s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" and "tensor" in given:
            return given["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **given)


class Stage(nn.Module):
    """A range of units run one after the other: what one expert hosts.

    Attributes:
        name: `family.stage`, for example `resnet18.front`.
        unit_names: names of the units in order.
    """

    def __init__(
        self, name: str, units: Sequence[Unit], seed: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.name = name
        self.unit_names = tuple(unit.name for unit in units)
        self._prefixes = {unit.name: unit.prefix for unit in units}
        self.units = nn.ModuleDict({unit.name: build_unit(unit, seed, device) for unit in units})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the units in order; tensors in and out have the batch dimension first."""
        values = inputs
        for unit in self.units.values():
            result = unit(*values)
            values = (result,) if isinstance(result, Tensor) else tuple(result)
        return values

    def global_name(self, local_name: str) -> str:
        """Return the name in the whole model of parameter or buffer `local_name` of this stage."""
        _, unit, rest = local_name.split(".", 2)
        return self._prefixes[unit] + _outside(rest)

    def global_state_dict(self) -> dict[str, Tensor]:
        """Return parameters and buffers under their names in the whole model.

        The tensors are the stage's own, detached, not copies.
        """
        return dict(self._global_items())

    def load_global_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy this stage's part of `state` into it; names of other stages are ignored.

        Raises:
            CheckpointError: a tensor of this stage is missing or has another shape. Nothing has
                been copied then.
        """
        own = self.global_state_dict()
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise CheckpointError(
                f"stage {self.name} needs {len(missing)} tensors the state does not hold, "
                f"the first is {missing[0]!r}; it is of another model or another stage"
            )
        for name, tensor in own.items():
            if state[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{name!r} of stage {self.name} has shape {tuple(tensor.shape)} but the state "
                    f"holds {tuple(state[name].shape)}; the model's options differ"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def _global_items(self) -> Iterator[tuple[str, Tensor]]:
        for local_name, tensor in self.state_dict().items():
            yield self.global_name(local_name), tensor
