"""How many bits travel and how many a model shall run with."""

from typing import Literal

from pydantic import Field

from distqatd.config.section import Section

WireCodec = Literal["fp32", "fp16", "bf16", "int8", "int4"]


class StageQuantConfig(Section):
    """What is different for one stage. Run-wide."""

    stage: str = Field(description="name of the stage, such as front or body_2_4")
    wire: WireCodec | None = Field(None, description="instead of quant.wire, on the link behind it")


class QuantConfig(Section):
    """Few bits: on the links between stages. Run-wide.

    The settings of a stage in `stages` go over the general ones.
    """

    enable: bool = Field(default=True, description="false switches everything of this section off")
    wire: WireCodec = Field(
        "fp32",
        description="how activations and their gradients travel between stages; fp32: unchanged",
    )
    wire_block_size: int | None = Field(
        None, ge=2, multiple_of=2, le=1 << 16, description="values that share a scale in int8, int4"
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
