"""How is trained: inner and outer steps."""

from typing import Literal

from pydantic import Field

from distqatd.config.section import Float, PositiveFloat, Section


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
