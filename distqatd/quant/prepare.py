"""Putting quantizers into modules: weights by parametrisation, inputs by a hook before forward.

Names of what is added to a module: parameters and buffers of its weight's quantizer under
`parametrizations.weight.0`, the master weight as `parametrizations.weight.original`, and the
quantizer of its input as the submodule `input_quantizer`.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from distqatd.config.quant import QuantConfig
from distqatd.quant.inputs import FixedInputs, InputQuantizer
from distqatd.quant.registry import quantizer
from distqatd.quant.rules import Scheme, scheme_of
from distqatd.quant.weights import WeightQuantizer

INPUT = "input_quantizer"

Named = Iterable[tuple[str, nn.Module]]


def output_axis(module: nn.Module) -> int | None:
    """Return the dimension of a weight's output channels, None if the module is not quantised.

    Known are Linear, Conv1d, Conv2d, Embedding, and by its name GPT-2's Conv1D, whose weight is
    (in, out). A weight that is computed already, as by weight_norm, is left alone.
    """
    if parametrize.is_parametrized(module, "weight"):
        return None
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding):
        return 0
    return 1 if type(module).__name__ == "Conv1D" else None


def quantise(modules: Named, quant: QuantConfig, stage: str) -> tuple[Scheme, ...]:
    """Give modules the quantizers that the configuration wants for them.

    Steps begin from the weights as they are: load weights first. Works on the meta device.

    Args:
        modules: of one stage, with their names in the whole model.
        quant: of the run.
        stage: name of the stage.

    Returns:
        The scheme of each module that could be quantised.

    Raises:
        ConfigError: a quantizer is not known.
    """
    schemes = []
    for name, module in list(modules):
        axis = output_axis(module)
        if axis is None or not quant.enable:
            continue
        scheme = scheme_of(quant, stage, name, type(module).__name__)
        _quantise_weight(module, scheme, axis)
        _quantise_input(module, scheme)
        schemes.append(scheme)
    return tuple(schemes)


def _quantise_weight(module: nn.Module, scheme: Scheme, axis: int) -> None:
    make = quantizer(scheme.weights.quantizer).weights
    if make is None or scheme.weights.bits is None:
        return
    weight: Any = module.weight
    made = make(scheme.weights, weight, axis).to(weight.device)
    parametrize.register_parametrization(module, "weight", made)


def _quantise_input(module: nn.Module, scheme: Scheme) -> None:
    make = quantizer(scheme.inputs.quantizer).inputs
    if make is None or scheme.inputs.bits is None or isinstance(module, nn.Embedding):
        return
    weight: Any = module.weight
    set_input_quantizer(module, make(scheme.inputs).to(weight.device))


def set_input_quantizer(module: nn.Module, made: InputQuantizer | FixedInputs) -> None:
    """Have `made` round what goes into a module from now on."""
    module.add_module(INPUT, made)
    module.register_forward_pre_hook(_round_input)


def _round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    made: Any = module.get_submodule(INPUT)
    return (made(inputs[0]), *inputs[1:])


def is_quantizer_state(name: str) -> bool:
    """Return whether a parameter or buffer was added to a module by its quantizers."""
    parts = name.split(".")
    return INPUT in parts or ".parametrizations.weight.0." in f".{name}"


def weight_quantizer(module: nn.Module) -> WeightQuantizer | None:
    """Return the quantizer of a module's weight, if it has one."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    chain: Any = module.parametrizations
    found = chain["weight"][0]
    return found if isinstance(found, WeightQuantizer) else None


def master_weight(module: nn.Module) -> Tensor:
    """Return the full-precision weight behind a quantizer."""
    chain: Any = module.parametrizations
    original: Tensor = chain["weight"].original
    return original
