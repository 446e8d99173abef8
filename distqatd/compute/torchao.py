"""A quantised model as tensors of torchao, for programs that know nothing of DistQat.

torchao's `IntxUnpackedToInt8Tensor` holds integers of any width as int8, with a step for each
block of a weight. Layers that have one compute with the weights of training, bit for bit. Where
torchao has nothing for a layer, its rounded weight is written in full precision, and said so.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distqatd.base.errors import CheckpointError
from distqatd.compute.stages import named_modules
from distqatd.models.units import Stage
from distqatd.quant.grouping import Grouping
from distqatd.quant.inputs import InputQuantizer
from distqatd.quant.prepare import INPUT, is_quantizer_state, master_weight, weight_quantizer
from distqatd.quant.weights import WeightQuantizer

_TAKEN = (nn.Linear, nn.Conv2d, nn.Embedding)
"""Layers whose function torchao's tensor knows; all have their output channels first."""

_NOISY = ("torchao", "torch.utils._pytree")
"""What warns of kernels for other machines when torchao is imported."""

_INPUTS = "inputs are not rounded: torchao observes them anew, and does not take trained levels"


@dataclass(frozen=True, slots=True)
class Converted:
    """A stage in torchao's terms.

    Attributes:
        state: tensors by their names in the whole model; a weight that torchao took is one of its.
        left: what it could not take, by the module's name, and why.
    """

    state: dict[str, Tensor]
    left: dict[str, tuple[str, ...]]


def convert(stage: Stage) -> Converted:
    """Return a trained stage with torchao's tensors as weights where there are some for them.

    Raises:
        CheckpointError: torchao is not installed, or is another version.
    """
    made = Converted({}, {})
    for name, module in named_modules(stage, stage.unit_names):
        quantizer = weight_quantizer(module)
        if quantizer is not None:
            made.state[f"{name}.weight"] = _weight(module, quantizer)
        if reasons := tuple(_obstacles(module, quantizer)):
            made.left[name] = reasons
    for local, tensor in stage.state_dict().items():
        if not is_quantizer_state(local):
            made.state.setdefault(stage.global_name(local), tensor)
    return made


def flatten(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file that torchao reads.

    Raises:
        CheckpointError: torchao is not installed, or is another version.
    """
    make = _imported(
        "torchao.prototype.safetensors.safetensors_support", "flatten_tensor_state_dict"
    )
    tensors, metadata = make(dict(state))
    return tensors, metadata


def _obstacles(module: nn.Module, quantizer: WeightQuantizer | None) -> Iterator[str]:
    """Yield why torchao cannot take a module as it was trained."""
    if quantizer is not None and (reason := _weight_obstacle(module, quantizer.grouping)):
        yield reason
    if isinstance(dict(module.named_children()).get(INPUT), InputQuantizer):
        yield _INPUTS


def _weight_obstacle(module: nn.Module, grouping: Grouping) -> str | None:
    kind = parametrize.type_before_parametrizations(module).__name__
    if not isinstance(module, _TAKEN):
        return f"torchao has no {kind}: its rounded weight is written in full precision"
    if _block(grouping) is None:
        return (
            f"groups of {grouping.group_size} are no blocks of a {kind} of {list(grouping.shape)}: "
            "its rounded weight is written in full precision"
        )
    return None


def _block(grouping: Grouping) -> tuple[int, ...] | None:
    """Return the shape of what shares a step, None if that has no shape."""
    if grouping.granularity == "tensor":
        return grouping.shape
    if grouping.granularity == "channel":
        return (1, *grouping.shape[1:])
    _, width, *rest = grouping.shape
    is_row = width % grouping.group_size == 0 and all(size == 1 for size in rest)
    return (1, grouping.group_size, *rest) if is_row else None


@torch.no_grad()
def _weight(module: nn.Module, quantizer: WeightQuantizer) -> Tensor:
    """Return a weight as torchao's tensor, or rounded."""
    master, grouping = master_weight(module), quantizer.grouping
    block = _block(grouping)
    if block is None or _weight_obstacle(module, grouping):
        rounded: Tensor = quantizer(master)
        return rounded
    codes_GM, step_G1 = quantizer.codes(master)  # noqa: N806
    steps = step_G1.float().reshape([n // b for n, b in zip(grouping.shape, block, strict=True)])
    make = _imported("torchao.quantization", "IntxUnpackedToInt8Tensor")
    made: Tensor = make(
        qdata=grouping.join(codes_GM),
        scale=steps,
        zero_point=torch.zeros_like(steps, dtype=torch.int8),
        target_dtype=getattr(torch, f"int{quantizer.bits}"),
        block_size=block,
        dtype=torch.float32,
        activation_quantization=None,
    )
    return made


def _imported(module: str, name: str) -> Any:
    for logger in _NOISY:
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"no {name} of torchao here: {error}\nfix: pip install 'distqat[torchao]'"
        ) from error
