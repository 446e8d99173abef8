"""The model of a run, as a chain of stages."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from distqatd.config.section import PositiveFloat, Section

_MODEL_NAME = re.compile(r"([^.\[\]]+)\.([^.\[\]]+)(?:\[(\d{1,6}):(\d{1,6})\])?")


class StageConfig(BaseModel):
    """One stage: `model_name` is `family.stage`, other keys are the family's. Run-wide.

    A stage may be cut further: `distilgpt2.body[2:4]` is the third and fourth unit of the body.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model_name: str
    __pydantic_extra__: dict[str, JsonValue]

    @field_validator("model_name")
    @classmethod
    def _has_stage(cls, value: str) -> str:
        if _MODEL_NAME.fullmatch(value) is None:
            raise ValueError(
                f"{value!r} must be FAMILY.STAGE or FAMILY.STAGE[FROM:TO], for example "
                "resnet18.front or distilgpt2.body[2:4]"
            )
        return value

    @property
    def family(self) -> str:
        """Return the model family, the part before the dot."""
        return self.model_name.split(".")[0]

    @property
    def part(self) -> str:
        """Return the named part of the model that the stage is, or lies in, such as `body`."""
        return self.model_name.split(".")[1].partition("[")[0]

    @property
    def span(self) -> tuple[int, int] | None:
        """Return which units of its part the stage holds: first, and one past the last."""
        match = _MODEL_NAME.fullmatch(self.model_name)
        return (int(match[3]), int(match[4])) if match and match[3] else None

    @property
    def stage(self) -> str:
        """Return the stage's name in the swarm: `body`, or `body_2_4` for `body[2:4]`."""
        return "_".join([self.part, *map(str, self.span or ())])

    @property
    def options(self) -> dict[str, Any]:
        """Return the family's options as given."""
        return dict(self.model_extra or {})


class ModelPipelineConfig(Section):
    """The model as a chain of stages. Run-wide."""

    pipeline: tuple[StageConfig, ...] = Field(
        (StageConfig(model_name="resnet18.front"), StageConfig(model_name="resnet18.back")),
        min_length=1,
        description="the stages in order, see below",
    )
    weights: str | None = Field(
        None,
        description="weights to start from instead of seeded ones: a safetensors file or a "
        "Hugging Face folder, as the machine that starts the run has it",
    )
    weights_fresh: tuple[str, ...] = Field(
        (), description="tensors whose names begin like this start from the seed all the same"
    )
    max_pipelines: int = Field(
        64, ge=1, le=64, description="pipelines at most; experts beyond them stand by as spares"
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
