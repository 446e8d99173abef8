"""What one machine gives and keeps: compute limits, logs and metrics, copies on disk."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from distqatd.config.section import PositiveFloat, Section


class ComputeConfig(Section):
    """Limits of this machine's experts. Local to a machine."""

    num_experts: int = Field(1, ge=1, description="experts this daemon hosts")
    stage: str | None = Field(
        None, description="host this stage instead of the one the swarm needs most"
    )
    weights: Path | None = Field(
        None,
        description="where model_pipeline.weights is on this machine, if it was not named here",
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


class DataServerConfig(Section):
    """The process that prepares batches for all trainers of this machine. Local to a machine."""

    mode: Literal["auto", "on", "off"] = Field(
        "auto",
        description="on: a client starts one as soon as a trainer asks; auto: if preparing "
        "batches is worth it; off: none is started or asked",
    )
    slots: int = Field(16, ge=2, le=1024, description="batches kept ready at most")
    ring_bytes: int = Field(
        256 << 20, ge=1 << 20, description="memory for them at most, but two always have room"
    )


class TelemetryConfig(Section):
    """Logs and metrics. Local to a machine."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_json: bool = Field(default=False, description="log JSON lines instead of logfmt")
    metrics_every: PositiveFloat = Field(
        2.0, description="seconds between metrics published by a trainer"
    )
    wandb_mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="how the monitor logs to W&B"
    )


class ParamMirrorConfig(Section):
    """Copies of committed state on disk, by a daemon with the monitor or client role.

    Local to a machine.
    """

    enable: bool = Field(default=False, description="keep a mirror of committed parameters")
    refresh_every: PositiveFloat = Field(30.0, description="seconds between refreshes, at least")
    checkpoint_dir: Path | None = Field(
        None, description="where checkpoints are written; default: in the run's log folder"
    )
    keep: int = Field(3, ge=1, description="checkpoints kept; the oldest go")
    resume: bool = Field(
        default=False, description="continue the run from its newest good checkpoint"
    )
