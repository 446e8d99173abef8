"""The model of a run, as a chain of stages."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from distqatd.config.section import PositiveFloat, Section


class StageConfig(BaseModel):
    """One stage: `model_name` is `family.stage`, other keys are the family's. Run-wide."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model_name: str
    __pydantic_extra__: dict[str, JsonValue]

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
        description="the stages in order, see below",
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
