"""The whole configuration as frozen sections; a component receives its section, never the whole.

Keys of the original DistQat documents keep their names, so their YAML files load. Fields marked
run-wide (`RUN_WIDE`) are digested and compared when a daemon joins: all peers must agree.
"""

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from distqatd.config.control import ControlConfig
from distqatd.config.data import DataConfig
from distqatd.config.diloco import (
    DilocoConfig,
    InnerOptimConfig,
    OuterOptimConfig,
    WarmStartConfig,
)
from distqatd.config.machine import (
    ComputeConfig,
    DataServerConfig,
    ParamMirrorConfig,
    TelemetryConfig,
)
from distqatd.config.model import ModelPipelineConfig, StageConfig
from distqatd.config.network import NetworkConfig
from distqatd.config.quant import QuantConfig
from distqatd.config.section import Section

__all__ = [
    "RUN_WIDE",
    "ComputeConfig",
    "Config",
    "ControlConfig",
    "DataConfig",
    "DataServerConfig",
    "DilocoConfig",
    "InnerOptimConfig",
    "ModelPipelineConfig",
    "NetworkConfig",
    "OuterOptimConfig",
    "ParamMirrorConfig",
    "QuantConfig",
    "Section",
    "StageConfig",
    "TelemetryConfig",
    "WarmStartConfig",
]


class Config(Section):
    """Everything, as one file holds it."""

    experiment_prefix: str = Field(
        "distqat",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the run and of its log folder",
    )
    wandb_project: str | None = Field(None, description="W&B project the monitor logs to")
    seed: int = Field(0, ge=0, description="seed of initial weights and data order; run-wide")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    world_size: int | None = Field(
        None, ge=1, description="number of experts that were planned; informative"
    )
    max_expert_index: int = Field(128, ge=1, description="replicas of a stage at most")
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    data_server: DataServerConfig = DataServerConfig()
    diloco: DilocoConfig = DilocoConfig()
    model_pipeline: ModelPipelineConfig = ModelPipelineConfig()
    quant: QuantConfig = QuantConfig()
    param_mirror: ParamMirrorConfig = ParamMirrorConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    compute: ComputeConfig = ComputeConfig()
    control: ControlConfig = ControlConfig()

    @field_validator("quant")
    @classmethod
    def _quant_names_stages(cls, quant: QuantConfig, info: ValidationInfo) -> QuantConfig:
        pipeline = info.data.get("model_pipeline", ModelPipelineConfig()).pipeline
        stages = [stage.stage for stage in pipeline]
        unknown = [each.stage for each in quant.stages if each.stage not in stages]
        if unknown:
            text = f"stages names {unknown[0]}, the pipeline's stages are {', '.join(stages)}"
            raise PydanticCustomError("unknown_stage", "{text}", {"text": text})
        return quant


RUN_WIDE = (
    "experiment_prefix",
    "seed",
    "max_expert_index",
    "data",
    "diloco",
    "model_pipeline",
    "quant",
)
"""Top-level keys whose values every peer of a run must share."""
