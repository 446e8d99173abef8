"""From the configuration to stages: which families exist and what a pipeline's names mean.

A name such as `gpt2.tail` means another range of units in head|body|tail than in head|tail, so a
stage is always resolved within its pipeline.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.config.sections import StageConfig
from distqatd.models.custom import GROUP, installed, own_family
from distqatd.models.family import SPLITS, STAGES, Family, suggest
from distqatd.models.gcn import GCN
from distqatd.models.gpt2 import DISTILGPT2, GPT2
from distqatd.models.gptneo import GPTNEO
from distqatd.models.mlp import MLP
from distqatd.models.policy import POLICY
from distqatd.models.resnet import RESNET18, RESNET50, RESNET101
from distqatd.models.unet import UNET
from distqatd.models.units import Stage, Unit
from distqatd.models.wav2vec2 import WAV2VEC2

_RESNETS = (RESNET18, RESNET50, RESNET101)
_TRANSFORMERS = (GPT2, DISTILGPT2, GPTNEO, WAV2VEC2)

FAMILIES: dict[str, Family[Any]] = {
    family.name: family for family in (MLP, *_RESNETS, *_TRANSFORMERS, UNET, GCN, POLICY)
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
    """Return the family called `name`: one of FAMILIES, or what an installed package registers.

    Raises:
        UnknownModel: there is none; the message lists those there are.
        ConfigError: the classes that a package registers do not make a family.
    """
    found = FAMILIES.get(name) or own_family(name)
    if found is None:
        raise UnknownModel(
            f"no model family {name!r}; {suggest(name, [*FAMILIES, *installed()])}\n"
            f"fix: models of others are packages with the entry point {name!r} in "
            f"{GROUP}: install the one it comes from"
        )
    return found


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
    parts = dict(zip(split, model.stages(split, options[0]), strict=True))
    for part, units in parts.items():
        _check_spans([config for config in pipeline if config.part == part], len(units))
    return tuple(_resolve(config, parts[config.part]) for config in pipeline)


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
    for resolved, candidate in _resolved(config, pipeline):
        if candidate == config:
            return Stage(resolved.name, resolved.units, seed, device)
    raise ConfigError(f"{config.model_name} is not a stage of the pipeline {_names(pipeline)}")


def _resolved(
    config: StageConfig, pipeline: Sequence[StageConfig]
) -> Iterator[tuple[ResolvedStage, StageConfig]]:
    if pipeline:
        yield from zip(check_pipeline(pipeline), pipeline, strict=True)
        return
    _check_name(config)
    split = max((split for split in SPLITS if config.part in split), key=len)
    model = family(config.family)
    parts = model.stages(split, model.parse(config.options, config.model_name))
    yield _resolve(config, parts[split.index(config.part)]), config


def _resolve(config: StageConfig, part: tuple[Unit, ...]) -> ResolvedStage:
    """Cut the stage out of its part.

    Raises:
        ConfigError: the part has no such units.
    """
    start, stop = config.span or (0, len(part))
    if not start < stop <= len(part):
        raise ConfigError(
            f"{config.model_name} is no range of the {len(part)} units of {config.part}; "
            f"write {config.part}[FROM:TO] with 0 <= FROM < TO <= {len(part)}"
        )
    return ResolvedStage(config.model_name, part[start:stop])


def _check_name(config: StageConfig) -> None:
    family(config.family)
    if config.part not in STAGES:
        raise UnknownModel(
            f"no stage {config.part!r} in {config.model_name!r}; {suggest(config.part, STAGES)}"
        )


def _check_one_family(pipeline: Sequence[StageConfig]) -> None:
    names = list(dict.fromkeys(config.family for config in pipeline))
    if len(names) > 1:
        raise ConfigError(
            f"model_pipeline.pipeline mixes the families {', '.join(names)}; "
            "all stages of a pipeline are of one model"
        )


def _check_split(pipeline: Sequence[StageConfig]) -> tuple[str, ...]:
    names = [config.part for config in pipeline]
    # Ranges of one part follow one another and stand for it once; whole parts are named once.
    split = tuple(
        config.part
        for config, before in zip(pipeline, [None, *names], strict=False)
        if config.part != before or config.span is None
    )
    if split not in SPLITS:
        known = "; ".join(", ".join(stages) for stages in SPLITS)
        raise ConfigError(
            f"model_pipeline.pipeline is {_names(pipeline)}, which does not cover the model once "
            f"and in order; use the stages of one of: {known}"
        )
    return split


def _check_spans(stages: Sequence[StageConfig], num_units: int) -> None:
    """Check that the stages of one part hold each of its units once, in order."""
    spans = [config.span or (0, num_units) for config in stages]
    ends = [stop for _, stop in spans]
    if [start for start, _ in spans] != [0, *ends[:-1]] or ends[-1] != num_units:
        part = stages[0].part
        raise ConfigError(
            f"{_names(stages)} must hold the {num_units} units of {part} once and in order: "
            f"the first range begins at 0, each at the end of the one before, the last ends at "
            f"{num_units}"
        )


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
