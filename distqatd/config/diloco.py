"""How a run trains: inner and outer steps."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distqatd.config.section import Float, PositiveFloat, Section, Share

AUTO_BATCH = 16
"""Samples in a batch where the number is chosen: of the slowest pipeline, a unit for others."""


def _number_of_auto(value: object) -> object:
    return 0 if value == "auto" else value


BatchSize = Annotated[int, BeforeValidator(_number_of_auto)]


class InnerOptimConfig(Section):
    """The optimizer of inner steps and its learning rate over the run. Run-wide."""

    type: str = Field(
        "adamw",
        pattern=r"^[A-Za-z][A-Za-z0-9]{0,31}$",
        description="sgd, adam, adamw, or the name of a class of torch.optim, such as RMSprop; "
        "only its own settings are used",
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
    kwargs: dict[str, Any] = Field(
        {}, description="arguments of the class, such as lr; for sgd and adam those not named above"
    )
    decay_matrices_only: bool = Field(
        default=False,
        description="no weight decay for parameters of one dimension: biases, norms",
    )
    max_grad_norm: PositiveFloat | None = Field(
        None, description="gradients of a stage are scaled down to this norm; null: never"
    )
    lr_schedule: Literal["constant", "cosine", "wsd"] = Field(
        "constant",
        description="learning rate over the run's inner steps; wsd: stable, then a linear decay",
    )
    warmup_steps: int = Field(0, ge=0, description="inner steps in which the rate rises from 0")
    decay_steps: int | None = Field(
        None, ge=1, description="last inner steps in which wsd decays; null: a tenth of the run"
    )
    min_lr_ratio: Float = Field(
        0.1, ge=0, le=1, description="share of the rate that cosine and wsd end with"
    )


class OuterOptimConfig(Section):
    """The optimizer of outer steps [source: DiLoCo, arXiv:2311.08105]. Run-wide."""

    type: Literal["sgd", "adam"] = Field(
        "sgd", description="which optimizer; only its own settings are used"
    )
    sgd_lr: Float = Field(0.7, gt=0, description="learning rate of outer steps")
    sgd_momentum: Share | None = Field(
        None,
        description="momentum over outer steps; null: 0.9 from 50 inner steps on, less for "
        "shorter rounds: 1 - 5 / inner steps",
    )
    sgd_nesterov: bool = Field(default=True, description="Nesterov momentum")
    adam_lr: Float = Field(0.01, gt=0, description="learning rate of adam")
    adam_betas: tuple[Share, Share] = Field(
        (0.9, 0.99), description="decay of the two moments of adam"
    )
    adam_eps: Float = Field(1e-4, gt=0, description="term that keeps adam from dividing by zero")


class WarmStartConfig(Section):
    """Short rounds without momentum at the start of a run. Run-wide."""

    length: int = Field(0, ge=0, description="outer steps of the warm start; 0: none")
    round_steps: int = Field(1, ge=1, description="inner steps between these outer steps")
    lr: Float = Field(
        1.0,
        gt=0,
        description="of these outer steps; 1 is the average. With adam in inner steps the square "
        "root of the number of replicas comes nearer to data-parallel training: each divides by "
        "the size of its own gradient, in which the noise is not averaged out",
    )
    ramp: int = Field(
        0,
        ge=0,
        description="outer steps after them in which the inner steps grow to the usual number",
    )


class DilocoConfig(Section):
    """DiLoCo: local inner steps, averaged at outer steps. Run-wide."""

    inner_optim: InnerOptimConfig = InnerOptimConfig()
    outer_optim: OuterOptimConfig = OuterOptimConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    inner_steps: int = Field(50, ge=1, description="inner steps between outer steps")
    outer_steps: int = Field(10, ge=1, description="outer steps in the run")
    fragments: int = Field(
        1,
        ge=1,
        le=64,
        description="parts of a stage that outer steps average in turn, so that each one takes "
        "fragments x inner_steps from one time to the next; outer steps of the warm start and the "
        "last one take all",
    )
    overlap_steps: int = Field(
        0,
        ge=0,
        description="inner steps that go on while an outer step is under way: it is taken over so "
        "many steps after it began, or when it is there if that is later; 0: steps wait for it",
    )
    mix_alpha: Share = Field(
        0.5,
        description="with overlap_steps: share of its own parameters that a replica keeps when it "
        "takes an outer step over",
    )
    batch_size_per_step: BatchSize = Field(
        64,
        ge=0,
        description=f"samples in one inner step of one pipeline; auto (or 0): {AUTO_BATCH} for the "
        "slowest, more for others by their speed, so that all come to a round together",
    )
    num_microbatches: int = Field(1, ge=1, description="microbatches a step is split into")
    dylu: bool = Field(
        default=False,
        description="slower pipelines take fewer inner steps, so that all come to a round together",
    )
    evaluate_every: int = Field(
        0, ge=0, description="outer steps between evaluations of the anchor; 0: only at the end"
    )
    averaging_timeout: PositiveFloat = Field(60.0, description="seconds a round may take at most")
    quorum: Float = Field(
        0.5, gt=0, le=1, description="share of the roster that must be ready to close a round"
    )
    codec: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
        "fp32", description="how pseudo-gradients travel; statistics of a stage travel exactly"
    )
    codec_block: int | None = Field(
        None,
        ge=2,
        le=65536,
        multiple_of=2,
        description="values that share a scale in int8 and int4; null: 1024 and 256",
    )
    error_feedback: bool = Field(
        default=True,
        description="what a codec rounds off goes into the replica's next contribution",
    )
    clip_factor: Float | None = Field(
        None,
        ge=1,
        description="contributions longer than this times the median length of this and past "
        "rounds are shortened to it; null: never",
    )
    robust: Literal["none", "centered_clip"] = Field(
        "none",
        description="centered_clip bounds what any minority of contributions can do to the mean; "
        "owners then hold all contributions to their slice at once",
    )
    compress: bool = Field(
        default=False,
        description="try zstd on encoded values: bf16 gradients become 1.4 times smaller, int8 "
        "1.3 times, for several times the CPU of the codec; for links below 100 Mbit/s",
    )

    @property
    def batch_size(self) -> int:
        """Return the samples in a batch as data is read: of a step, or a unit of it with auto."""
        return self.batch_size_per_step or AUTO_BATCH

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        warm = self.warm_start
        if warm.length and warm.round_steps > self.inner_steps:
            raise ValueError(
                f"warm_start.round_steps {warm.round_steps} is above inner_steps {self.inner_steps}"
            )
        if self.overlap_steps >= self.inner_steps:
            raise ValueError(
                f"overlap_steps {self.overlap_steps} is not below inner_steps {self.inner_steps}: "
                "an outer step is taken over before the next one begins"
            )
        return self
