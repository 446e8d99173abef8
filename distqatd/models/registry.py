"""From the configuration to stages: which families exist and what a pipeline's names mean.

A name such as `gpt2.tail` means another range of units in head|body|tail than in head|tail, so a
stage is always resolved within its pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.config.sections import StageConfig
from distqatd.models.family import SPLITS, STAGES, Family, suggest
from distqatd.models.gpt2 import DISTILGPT2, GPT2
from distqatd.models.mlp import MLP
from distqatd.models.resnet import RESNET18
from distqatd.models.units import Stage, Unit

FAMILIES: dict[str, Family[Any]] = {
    family.name: family for family in (MLP, RESNET18, GPT2, DISTILGPT2)
}
"""All families by name."""


@dataclass(frozen=True, slots=True)
class ResolvedStage:
    """A stage of a checked pipeline.

    Attributes:
        name: `family.stage` as configured.
        units: the units it holds, in order, never empty.
    """

    name: str
    units: tuple[Unit, ...]


def family(name: str) -> Family[Any]:
    """Return the family called `name`.

    Raises:
        UnknownModel: there is none; the message lists those there are.
    """
    if name not in FAMILIES:
        raise UnknownModel(f"no model family {name!r}; {suggest(name, FAMILIES)}")
    return FAMILIES[name]


def check_pipeline(pipeline: Sequence[StageConfig]) -> tuple[ResolvedStage, ...]:
    """Check that the stages of `pipeline` chain and cover one model exactly once; resolve them.

    Raises:
        UnknownModel: no such family or stage name.
        ConfigError: stages of several families, in another order than one of SPLITS, options that
            are wrong or differ between stages, or a model too small to be cut like this.
    """
    if not pipeline:
        raise ConfigError("model_pipeline.pipeline is empty; name at least one stage")
    for config in pipeline:
        _check_name(config)
    _check_one_family(pipeline)
    split = _check_split(pipeline)
    model = family(pipeline[0].family)
    options = [
        model.parse(config.options, f"model_pipeline.pipeline[{index}]")
        for index, config in enumerate(pipeline)
    ]
    _check_same_options(pipeline, options)
    ranges = model.stages(split, options[0])
    return tuple(
        ResolvedStage(config.model_name, units)
        for config, units in zip(pipeline, ranges, strict=True)
    )


def build_stage(
    config: StageConfig,
    seed: int,
    device: torch.device | str = "cpu",
    pipeline: Sequence[StageConfig] = (),
) -> Stage:
    """Build one stage with its initial weights; every replica of it starts bit-identical.

    Draws from torch's CPU generator and restores it, so call it on the thread that owns torch.

    Args:
        config: the stage.
        seed: the run's seed.
        device: where its tensors are; `meta` allocates nothing.
        pipeline: the pipeline `config` is part of. Without it, the pipeline is the longest split
            that has this stage: head, body and tail for a head or a tail.

    Raises:
        UnknownModel, ConfigError: as `check_pipeline`, or `config` is not in `pipeline`.
    """
    if not pipeline:
        pipeline = _pipeline_around(config)
    for resolved, candidate in zip(check_pipeline(pipeline), pipeline, strict=True):
        if candidate == config:
            return Stage(resolved.name, resolved.units, seed, device)
    raise ConfigError(f"{config.model_name} is not a stage of the pipeline {_names(pipeline)}")


def _pipeline_around(config: StageConfig) -> tuple[StageConfig, ...]:
    _check_name(config)
    split = max((split for split in SPLITS if config.stage in split), key=len)
    return tuple(
        config.model_copy(update={"model_name": f"{config.family}.{stage}"}) for stage in split
    )


def _check_name(config: StageConfig) -> None:
    family(config.family)
    if config.stage not in STAGES:
        raise UnknownModel(
            f"no stage {config.stage!r} in {config.model_name!r}; {suggest(config.stage, STAGES)}"
        )


def _check_one_family(pipeline: Sequence[StageConfig]) -> None:
    names = list(dict.fromkeys(config.family for config in pipeline))
    if len(names) > 1:
        raise ConfigError(
            f"model_pipeline.pipeline mixes the families {', '.join(names)}; "
            "all stages of a pipeline are of one model"
        )


def _check_split(pipeline: Sequence[StageConfig]) -> tuple[str, ...]:
    split = tuple(config.stage for config in pipeline)
    if split not in SPLITS:
        known = "; ".join(", ".join(stages) for stages in SPLITS)
        raise ConfigError(
            f"model_pipeline.pipeline is {_names(pipeline)}, which does not cover the model once "
            f"and in order; use the stages of one of: {known}"
        )
    return split


def _check_same_options(pipeline: Sequence[StageConfig], options: Sequence[Any]) -> None:
    first = options[0].model_dump()
    for config, other in zip(pipeline, options, strict=True):
        for key, value in other.model_dump().items():
            if value != first[key]:
                raise ConfigError(
                    f"{key} is {first[key]!r} in {pipeline[0].model_name} but {value!r} in "
                    f"{config.model_name}; all stages of a pipeline take the same options"
                )


def _names(pipeline: Sequence[StageConfig]) -> str:
    return ", ".join(config.model_name for config in pipeline)
