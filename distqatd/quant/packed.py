"""Weights that are kept as packed integers and steps, and multiplied out when they are used.

The product is the one that training computed with, so outputs are the same, bit for bit.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distqatd.base.errors import CheckpointError
from distqatd.quant.grouping import Granularity, Grouping
from distqatd.quant.packing import pack, unpack
from distqatd.quant.prepare import master_weight
from distqatd.quant.weights import WeightQuantizer

MAX_VALUES = 1 << 40
"""Values of one weight at most, so that products of sizes from a file stay small."""


@dataclass(frozen=True, slots=True)
class PackedForm:
    """How a packed weight is to be read.

    Attributes:
        bits: of one integer.
        shape: of the weight.
        granularity: what shares a step, with `axis` and `group_size` as in `Grouping`.
    """

    bits: int
    shape: tuple[int, ...]
    granularity: Granularity
    axis: int
    group_size: int

    @property
    def grouping(self) -> Grouping:
        """Return which values share a step."""
        return Grouping(self.shape, self.granularity, self.axis, self.group_size)

    @property
    def num_codes(self) -> int:
        """Return how many integers there are, those that fill up groups included."""
        return self.grouping.num_groups * self.grouping.num_values

    def body(self) -> dict[str, Any]:
        """Return the form as it is written."""
        return asdict(self)

    @classmethod
    def read(cls, value: object) -> Self:
        """Check and return a form.

        Raises:
            CheckpointError: it is none.
        """
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise CheckpointError(f"not the form of a packed weight: {str(value)[:80]}")
        numbers = [value["bits"], value["axis"], value["group_size"]]
        shape = value["shape"]
        is_sound = (
            isinstance(shape, list)
            and 1 <= len(shape) <= 8
            and all(type(number) is int and 0 <= number <= MAX_VALUES for number in shape + numbers)
            and 2 <= value["bits"] <= 8
            and value["axis"] < len(shape)
            and value["group_size"] >= 1
            and value["granularity"] in get_args(Granularity)
        )
        if not is_sound:
            raise CheckpointError(f"not the form of a packed weight: {str(value)[:80]}")
        return cls(**{**value, "shape": tuple(shape)})


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight as integers: packed, with a float32 step (G,) for each group."""

    form: PackedForm
    codes: Tensor
    step: Tensor


def bake(module: nn.Module, quantizer: WeightQuantizer) -> PackedWeight:
    """Return a module's weight as the integers that training rounds it to."""
    codes_GM, step_G1 = quantizer.codes(master_weight(module))  # noqa: N806
    grouping = quantizer.grouping
    form = PackedForm(
        quantizer.bits, grouping.shape, grouping.granularity, grouping.axis, grouping.group_size
    )
    return PackedWeight(form, pack(codes_GM, form.bits), step_G1.reshape(-1).float())


class Unpack(nn.Module):
    """A parametrisation: from packed integers to the weight.

    Attributes:
        step: (G, 1).
    """

    step: Tensor

    def __init__(self, form: PackedForm, step: Tensor) -> None:
        super().__init__()
        self._form = form
        self.register_buffer("step", step.reshape(-1, 1))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the weight, float32."""
        form = self._form
        flat = unpack(codes, form.bits, form.num_codes)
        values_GM = flat.view(form.grouping.num_groups, -1).float() * self.step  # noqa: N806
        return form.grouping.join(values_GM)


def set_packed_weight(module: nn.Module, packed: PackedWeight) -> None:
    """Have a module compute with packed integers, which replace its weight.

    Raises:
        CheckpointError: they are of a weight of another shape, or not whole.
    """
    own: Any = module.weight
    form = packed.form
    if tuple(own.shape) != form.shape or packed.step.shape != (form.grouping.num_groups,):
        shapes = f"{form.shape} with {tuple(packed.step.shape)} steps"
        raise CheckpointError(f"a packed weight of {shapes} is not for one of {tuple(own.shape)}")
    unpack(packed.codes, form.bits, form.num_codes)
    del module.weight
    module.register_buffer("weight", packed.codes)
    made = Unpack(form, packed.step)
    # Unsafe: what is kept has another dtype and shape than the weight.
    parametrize.register_parametrization(module, "weight", made, unsafe=True)


@torch.no_grad()
def fixed_levels(step: Tensor, low: Tensor, high: Tensor, is_ready: Tensor) -> dict[str, Tensor]:
    """Return the levels of an input quantizer as an export holds them; step 0: never observed."""
    return {"step": torch.where(is_ready, step, 0.0), "low": low, "high": high}
