"""How many bits travel between stages, and with how many the model learns to run."""

from typing import Literal

from pydantic import Field

from distqatd.config.section import Float, Section

WireCodec = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Granularity = Literal["tensor", "channel", "group"]

LEARNED_STEP = "LearnedStepQuantizer"
_QUANTIZERS = "LearnedStepQuantizer, MinMaxQuantizer or PassThroughQuantizer"


class WeightQuantConfig(Section):
    """How weights are rounded while training. Run-wide."""

    quantizer: str = Field(LEARNED_STEP, description=_QUANTIZERS)
    bits: int | None = Field(None, ge=2, le=8, description="bits of a weight; null: all of them")
    granularity: Granularity = Field("channel", description="what shares a step")
    group_size: int = Field(32, ge=2, le=65536, description="weights that share a step in `group`")


class InputQuantConfig(Section):
    """How the inputs of layers, the activations, are rounded while training. Run-wide."""

    quantizer: str = Field(LEARNED_STEP, description=_QUANTIZERS)
    bits: int | None = Field(None, ge=2, le=8, description="bits of an input; null: all of them")
    momentum: Float = Field(
        0.05, gt=0, le=1, description="weight of the newest batch in the observed range"
    )


class WeightQuantChange(Section):
    """What a rule changes of how weights are rounded; null: nothing."""

    quantizer: str | None = Field(None, description=_QUANTIZERS)
    bits: int | None = Field(None, ge=2, le=8, description="bits of a weight")
    granularity: Granularity | None = Field(None, description="what shares a step")
    group_size: int | None = Field(None, ge=2, le=65536, description="weights that share a step")


class InputQuantChange(Section):
    """What a rule changes of how inputs are rounded; null: nothing."""

    quantizer: str | None = Field(None, description=_QUANTIZERS)
    bits: int | None = Field(None, ge=2, le=8, description="bits of an input")
    momentum: Float | None = Field(None, gt=0, le=1, description="weight of the newest batch")


class QuantRule(Section):
    """What is different for some modules; a rule with both patterns wants both to match."""

    name: str | None = Field(
        None, description="pattern of the module's name in the whole model, with * and ?"
    )
    type: str | None = Field(None, description="its class, such as Conv2d, Conv1D or Embedding")
    weights: WeightQuantChange = WeightQuantChange()
    activations: InputQuantChange = InputQuantChange()


class StageQuantConfig(Section):
    """What is different for one stage. Run-wide."""

    stage: str = Field(description="name of the stage, such as front or body_2_4")
    wire: WireCodec | None = Field(None, description="instead of quant.wire, on the link behind it")
    weights: WeightQuantChange = WeightQuantChange()
    activations: InputQuantChange = InputQuantChange()
    overrides: tuple[QuantRule, ...] = Field(
        (), max_length=256, description="for modules of this stage, after the general ones"
    )


class QuantConfig(Section):
    """Few bits: on the links between stages, and in the model itself. Run-wide.

    Of several settings for one module the last one counts: the base, the stage's, then the
    general overrides in order, then the stage's overrides.
    """

    enable: bool = Field(default=True, description="false switches everything of this section off")
    wire: WireCodec = Field(
        "fp32",
        description="how activations and their gradients travel between stages; fp32: unchanged",
    )
    wire_block_size: int | None = Field(
        None, ge=2, multiple_of=2, le=1 << 16, description="values that share a scale in int8, int4"
    )
    weights: WeightQuantConfig = WeightQuantConfig()
    activations: InputQuantConfig = InputQuantConfig()
    overrides: tuple[QuantRule, ...] = Field(
        (), max_length=256, description="what is different for some modules"
    )
    stages: tuple[StageQuantConfig, ...] = Field(
        (), max_length=256, description="what is different for single stages"
    )

    def wire_behind(self, stage: str) -> WireCodec:
        """Return the codec of the link from `stage` to the next one."""
        if not self.enable:
            return "fp32"
        own = [each.wire for each in self.stages if each.stage == stage and each.wire is not None]
        return own[-1] if own else self.wire
