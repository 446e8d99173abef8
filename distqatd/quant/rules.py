"""Which quantizers a module gets: the base scheme, changed by stage and by rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from distqatd.config.quant import InputQuantConfig, QuantConfig, QuantRule, WeightQuantConfig
from distqatd.config.section import Section

SchemeT = TypeVar("SchemeT", bound=Section)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a module is quantised, and by which rules, as places in the configuration."""

    weights: WeightQuantConfig
    inputs: InputQuantConfig
    rules: tuple[str, ...]


def scheme_of(quant: QuantConfig, stage: str, name: str, kind: str) -> Scheme:
    """Return how a module is quantised.

    Args:
        quant: of the run.
        stage: name of the stage it is in.
        name: of the module in the whole model, such as `layer1.0.conv1`.
        kind: its class, such as `Conv2d`.
    """
    weights, inputs, used = quant.weights, quant.activations, []
    own = [(i, each) for i, each in enumerate(quant.stages) if each.stage == stage]
    for _, each in own:
        weights, inputs = _changed(weights, each.weights), _changed(inputs, each.activations)
    groups = [("quant.overrides", quant.overrides)]
    groups += [(f"quant.stages.{i}.overrides", each.overrides) for i, each in own]
    for where, rules in groups:
        for number, rule in _matching(rules, name, kind):
            weights, inputs = _changed(weights, rule.weights), _changed(inputs, rule.activations)
            used.append(f"{where}.{number}")
    return Scheme(weights, inputs, tuple(used))


def _changed(scheme: SchemeT, change: Section) -> SchemeT:
    return scheme.model_copy(update=change.model_dump(exclude_none=True))


def _matching(rules: Sequence[QuantRule], name: str, kind: str) -> list[tuple[int, QuantRule]]:
    return [
        (number, rule)
        for number, rule in enumerate(rules)
        if (rule.name is None or fnmatchcase(name, rule.name))
        and (rule.type is None or rule.type == kind)
    ]


def all_rules(quant: QuantConfig) -> tuple[str, ...]:
    """Return the places of all rules, as in `Scheme.rules`."""
    places = [f"quant.overrides.{i}" for i in range(len(quant.overrides))]
    for i, each in enumerate(quant.stages):
        places += [f"quant.stages.{i}.overrides.{k}" for k in range(len(each.overrides))]
    return tuple(places)
