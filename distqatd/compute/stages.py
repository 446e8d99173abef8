"""Stages as they are trained: built, given the weights a run starts from, then quantised."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from distqatd.base.errors import ConfigError
from distqatd.compute.weights import LoadedWeights, Weights, start_from
from distqatd.config.sections import Config, QuantConfig, StageConfig
from distqatd.models.registry import build_stage, check_pipeline
from distqatd.models.units import Stage, Unit
from distqatd.quant.prepare import quantise
from distqatd.quant.rules import Scheme, all_rules


def build_trained_stage(
    config: Config,
    stage: StageConfig,
    device: torch.device | str = "cpu",
    weights: Weights | None = None,
) -> tuple[Stage, LoadedWeights | None]:
    """Build a stage of a run as its experts train it; every replica starts bit-identical.

    Args:
        config: of the run.
        stage: one of its stages.
        device: where its tensors are; `meta` allocates nothing.
        weights: what the run starts from, if not from the seed.

    Raises:
        CheckpointError: the weights do not fit.
        UnknownModel, ConfigError: the stage or a quantizer is not known.
    """
    pipeline = config.model_pipeline
    built = build_stage(stage, config.seed, device, pipeline.pipeline)
    loaded = None if weights is None else start_from(built, weights, pipeline)
    quantise(named_modules(built, built.unit_names), config.quant, stage.stage)
    return built, loaded


def build_whole_model(
    config: Config, device: torch.device | str = "cpu", weights: Weights | None = None
) -> Stage:
    """Build the unsplit model of a run as one stage, quantised as its stages are.

    Raises:
        CheckpointError, UnknownModel, ConfigError: as `build_trained_stage`.
    """
    pipeline = config.model_pipeline
    resolved = check_pipeline(pipeline.pipeline)
    units: list[Unit] = [unit for stage in resolved for unit in stage.units]
    model = Stage("whole.full", units, config.seed, device)
    if weights is not None:
        start_from(model, weights, pipeline)
    quantise_whole(model, config.quant, pipeline.pipeline)
    return model


def quantise_whole(
    model: Stage, quant: QuantConfig, pipeline: Sequence[StageConfig]
) -> tuple[Scheme, ...]:
    """Quantise an unsplit model as the stages of `pipeline` would be; return all schemes.

    Raises:
        ConfigError: a quantizer is not known.
    """
    schemes: list[Scheme] = []
    for config, resolved in zip(pipeline, check_pipeline(pipeline), strict=True):
        names = [unit.name for unit in resolved.units]
        schemes += quantise(named_modules(model, names), quant, config.stage)
    return tuple(schemes)


def named_modules(stage: Stage, units: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of some units of a stage with their names in the whole model."""
    for unit in units:
        for name, module in stage.units[unit].named_modules():
            local = ".".join(part for part in ("units", unit, name, "weight") if part)
            yield stage.global_name(local).removesuffix(".weight"), module


def check_quant(config: Config) -> None:
    """Check that every quantizer is known and that every rule is for some module.

    Raises:
        ConfigError: one is not; names it.
    """
    if not config.quant.enable:
        return
    model = build_whole_model(config.model_copy(update={"quant": QuantConfig()}), "meta")
    schemes = quantise_whole(model, config.quant, config.model_pipeline.pipeline)
    used = {rule for scheme in schemes for rule in scheme.rules}
    idle = [rule for rule in all_rules(config.quant) if rule not in used]
    if idle:
        raise ConfigError(
            f"{idle[0]} matches no module that can be quantised; names are those of the whole "
            "model, and types Linear, Conv1d, Conv2d, Conv1D or Embedding"
        )
