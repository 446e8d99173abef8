"""Quantizers by the name that the configuration uses."""

from dataclasses import dataclass

from distqatd.base.errors import ConfigError
from distqatd.quant.inputs import LearnedStepInputs, MakesInputQuantizer, MinMaxInputs
from distqatd.quant.weights import LearnedStepWeights, MakesWeightQuantizer, MinMaxWeights

PASS_THROUGH = "PassThroughQuantizer"  # noqa: S105  no password
"""Leaves full precision."""


@dataclass(frozen=True, slots=True)
class Quantizer:
    """What a name stands for; None leaves weights or inputs in full precision."""

    weights: MakesWeightQuantizer | None
    inputs: MakesInputQuantizer | None


_QUANTIZERS: dict[str, Quantizer] = {
    "LearnedStepQuantizer": Quantizer(LearnedStepWeights, LearnedStepInputs),
    "MinMaxQuantizer": Quantizer(MinMaxWeights, MinMaxInputs),
    PASS_THROUGH: Quantizer(None, None),
}


def register_quantizer(name: str, quantizer: Quantizer) -> None:
    """Make a quantizer of one's own available to configurations.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _QUANTIZERS:
        raise ConfigError(f"there is a quantizer {name} already")
    _QUANTIZERS[name] = quantizer


def quantizer(name: str) -> Quantizer:
    """Return the quantizer called `name`.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in _QUANTIZERS:
        raise ConfigError(f"no quantizer {name!r}; known are {', '.join(_QUANTIZERS)}")
    return _QUANTIZERS[name]
