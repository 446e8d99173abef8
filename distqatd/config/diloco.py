"""How a run trains: inner and outer steps."""

from typing import Literal

from pydantic import Field

from distqatd.config.section import Float, PositiveFloat, Section, Share


class InnerOptimConfig(Section):
    """The optimizer of inner steps. Run-wide."""

    type: Literal["sgd", "adam", "adamw"] = Field(
        "adamw", description="which optimizer; only its own settings are used"
    )
    sgd_lr: Float = Field(0.1, gt=0, description="learning rate of sgd")
    sgd_momentum: Float = Field(0.0, ge=0, lt=1, description="momentum of sgd")
    sgd_nesterov: bool = Field(default=False, description="Nesterov momentum in sgd")
    sgd_weight_decay: Float = Field(0.0, ge=0, description="weight decay of sgd")
    adam_lr: Float = Field(1e-3, gt=0, description="learning rate of adam and adamw")
    adam_weight_decay: Float = Field(0.0, ge=0, description="weight decay of adam and adamw")
    adam_betas: tuple[Share, Share] = Field(
        (0.9, 0.999), description="decay of the two moments of adam and adamw"
    )
    adam_eps: Float = Field(1e-8, gt=0, description="term that keeps adam from dividing by zero")


class OuterOptimConfig(Section):
    """The optimizer of outer steps [source: DiLoCo, arXiv:2311.08105]. Run-wide."""

    type: Literal["sgd"] = Field("sgd", description="which optimizer")
    sgd_lr: Float = Field(0.7, gt=0, description="learning rate of outer steps")
    sgd_momentum: Float = Field(0.9, ge=0, lt=1, description="momentum over outer steps")
    sgd_nesterov: bool = Field(default=True, description="Nesterov momentum")


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
    codec: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        "fp32", description="how pseudo-gradients travel"
    )
