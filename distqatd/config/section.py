"""What all sections have in common, and the number types they use."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _number_from_text(value: object) -> object:
    """PyYAML reads `4e-4` as text (YAML 1.1 wants a dot); accept it as the number it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Float = Annotated[float, BeforeValidator(_number_from_text)]
Share = Annotated[float, BeforeValidator(_number_from_text), Field(ge=0, lt=1)]
NotNegativeFloat = Annotated[float, BeforeValidator(_number_from_text), Field(ge=0)]
PositiveFloat = Annotated[float, BeforeValidator(_number_from_text), Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys and infinite numbers refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs: YAML reads `port: on` as true, hence 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("this is not a switch")
        return value
