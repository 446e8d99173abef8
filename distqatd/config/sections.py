"""The configuration as frozen sections; a component receives its section, never the whole.

Keys of the original DistQat documents keep their names, so their YAML files load. Fields marked
run-wide (`RUN_WIDE`) are digested and compared when a daemon joins: all peers must agree.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _number_from_text(value: object) -> object:
    """PyYAML reads `4e-4` as text (YAML 1.1 wants a dot); accept it as the number it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Float = Annotated[float, BeforeValidator(_number_from_text)]
PositiveFloat = Annotated[float, BeforeValidator(_number_from_text), Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class NetworkConfig(Section):
    """How this daemon is reached and whom it asks first. Local to a machine."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104  a peer-to-peer daemon is reached from outside
    port: int = Field(29700, ge=0, le=65535, description="TCP and UDP port; 0 picks a free one")
    api_port: int = Field(
        29701, ge=-1, le=65535, description="loopback HTTP port; 0 picks one, -1 disables it"
    )
    join: tuple[str, ...] = Field(
        (), description="initial peers: host:port, multiaddr, dq1: invite or @file"
    )
    public_ip: str | None = Field(None, description="address others can reach this machine at")
    announce: tuple[str, ...] = Field(
        (), description="addresses to advertise instead of the detected ones"
    )
    join_timeout: PositiveFloat = Field(60.0, description="seconds to find a first peer")
    swarm_name: str = Field(
        "distqat", description="name of the swarm; an open swarm is defined by it"
    )
    open_swarm: bool = Field(
        default=False, description="anyone who knows the swarm's name may join"
    )
    secret_file: Path | None = Field(None, description="file with the swarm secret, mode 0600")
    max_peers: int = Field(512, ge=1, description="connections kept at most")
    bytes_in_flight: int = Field(
        1 << 30, ge=1 << 20, description="bytes of incoming tensors held at most, all peers"
    )


class DataConfig(Section):
    """What is trained on. Run-wide."""

    dataset_name: str = Field(
        "digits", description="digits, python_sources, a local file, or a Hugging Face dataset"
    )
    dataset_config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    dataset_split: str = Field("train", description="split to train on")
    task_type: Literal["cv", "llm", "nlp", "speech", "image_gen", "node_pred", "rl"] = Field(
        "cv", description="decides collate and loss"
    )
    num_workers: int = Field(0, ge=0, description="extra preparation workers")
    precision: Literal["fp32", "bf16", "fp16-mixed"] = Field(
        "fp32", description="arithmetic of forward and backward"
    )
    num_channels: int = Field(1, ge=1, description="channels of an image")
    img_size: int = Field(8, ge=1, description="height and width of an image, pixels")
    seq_len: int = Field(128, ge=2, description="tokens in a sequence")
    validation_fraction: Float = Field(
        0.2, gt=0, lt=1, description="share of the samples kept for validation"
    )
    max_bytes: int = Field(4 << 20, ge=1 << 10, description="bytes of text read at most")


class InnerOptimConfig(Section):
    """The optimizer of inner steps. Run-wide."""

    type: Literal["sgd", "adam", "adamw"] = "adamw"
    sgd_lr: Float = Field(0.1, gt=0)
    sgd_momentum: Float = Field(0.0, ge=0, lt=1)
    sgd_nesterov: bool = False
    sgd_weight_decay: Float = Field(0.0, ge=0)
    adam_lr: Float = Field(1e-3, gt=0)
    adam_weight_decay: Float = Field(0.0, ge=0)
    adam_betas: tuple[Float, Float] = (0.9, 0.999)
    adam_eps: Float = Field(1e-8, gt=0)


class OuterOptimConfig(Section):
    """The optimizer of outer steps [source: DiLoCo, arXiv:2311.08105]. Run-wide."""

    type: Literal["sgd"] = "sgd"
    sgd_lr: Float = Field(0.7, gt=0)
    sgd_momentum: Float = Field(0.9, ge=0, lt=1)
    sgd_nesterov: bool = True


class DilocoConfig(Section):
    """DiLoCo: local inner steps, averaged at outer steps. Run-wide."""

    inner_optim: InnerOptimConfig = InnerOptimConfig()
    outer_optim: OuterOptimConfig = OuterOptimConfig()
    inner_steps: int = Field(50, ge=1, description="inner steps between outer steps")
    outer_steps: int = Field(10, ge=1, description="outer steps in the run")
    batch_size_per_step: int = Field(
        64, ge=1, description="samples in one inner step of one pipeline"
    )
    num_microbatches: int = Field(1, ge=1, description="microbatches a step is split into")
    averaging_timeout: PositiveFloat = Field(60.0, description="seconds a round may take at most")
    quorum: Float = Field(
        0.5, gt=0, le=1, description="share of the roster that must be ready to close a round"
    )
    codec: Literal["fp32", "bf16"] = Field("fp32", description="how pseudo-gradients travel")


class StageConfig(BaseModel):
    """One stage: `model_name` is `family.stage`, other keys are the family's. Run-wide."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model_name: str

    @field_validator("model_name")
    @classmethod
    def _has_stage(cls, value: str) -> str:
        if value.count(".") != 1:
            raise ValueError(f"{value!r} must be FAMILY.STAGE, for example resnet18.front")
        return value

    @property
    def family(self) -> str:
        """Return the model family, the part before the dot."""
        return self.model_name.split(".")[0]

    @property
    def stage(self) -> str:
        """Return the stage name, the part after the dot."""
        return self.model_name.split(".")[1]

    @property
    def options(self) -> dict[str, Any]:
        """Return the family's options as given."""
        return dict(self.model_extra or {})


class ModelPipelineConfig(Section):
    """The model as a chain of stages. Run-wide."""

    pipeline: tuple[StageConfig, ...] = Field(
        (StageConfig(model_name="resnet18.front"), StageConfig(model_name="resnet18.back")),
        min_length=1,
    )
    forward_timeout: PositiveFloat = Field(
        90.0, description="seconds a forward pass of a step may take"
    )
    backward_timeout: PositiveFloat = Field(
        180.0, description="seconds a backward pass of a step may take"
    )
    loss_at: Literal["last_stage", "trainer"] = Field(
        "last_stage", description="who computes the loss"
    )


class ParamMirrorConfig(Section):
    """Copies of committed state on disk. Local to a machine."""

    enable: bool = Field(default=False, description="keep a mirror of committed parameters")
    refresh_every: PositiveFloat = Field(30.0, description="seconds between refreshes")
    checkpoint_dir: Path | None = Field(None, description="where checkpoints are written")


class TelemetryConfig(Section):
    """Logs and metrics. Local to a machine."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = Field(default=False, description="log JSON lines instead of logfmt")
    metrics_every: PositiveFloat = Field(
        2.0, description="seconds between metrics published by a trainer"
    )
    wandb_mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="how the monitor logs to W&B"
    )


class ComputeConfig(Section):
    """Limits of this machine's experts. Local to a machine."""

    num_experts: int = Field(1, ge=1, description="experts this daemon hosts")
    stage: str | None = Field(
        None, description="host this stage instead of the one the swarm needs most"
    )
    num_threads: int = Field(0, ge=0, description="torch threads; 0 leaves torch's own choice")
    stash_bytes: int = Field(
        2 << 30,
        ge=1 << 10,
        description="activations kept for backward, at most; above it they are recomputed",
    )
    max_microbatches_in_flight: int = Field(
        32, ge=1, description="microbatches an expert accepts before it makes the sender wait"
    )


class Config(Section):
    """Everything, as one file holds it."""

    experiment_prefix: str = Field(
        "distqat",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
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
    diloco: DilocoConfig = DilocoConfig()
    model_pipeline: ModelPipelineConfig = ModelPipelineConfig()
    param_mirror: ParamMirrorConfig = ParamMirrorConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    compute: ComputeConfig = ComputeConfig()


RUN_WIDE = ("experiment_prefix", "seed", "max_expert_index", "data", "diloco", "model_pipeline")
"""Top-level keys whose values every peer of a run must share."""
