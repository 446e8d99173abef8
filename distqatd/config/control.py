"""Who may tell this daemon to do something, and how long it takes to leave."""

from pathlib import Path

from pydantic import Field, field_validator

from distqatd.config.section import NotNegativeFloat, Section

DIRECTIVE_KINDS = ("drain", "resume", "reassign")
"""What an operator can tell another machine to do."""


class ControlConfig(Section):
    """Who may tell this daemon to do something, and how it leaves. Local to a machine."""

    refuse: tuple[str, ...] = Field(
        (), description="directives of operators elsewhere not taken: drain, resume, reassign"
    )
    operators: tuple[str, ...] = Field(
        (), description="further operators: PUBLIC_KEY, or PUBLIC_KEY=drain,resume"
    )
    operator_key_file: Path | None = Field(
        None, description="the operator's private key; default: beside the swarm's secret"
    )
    stop_deadline: NotNegativeFloat = Field(
        30.0, description="seconds that SIGTERM gives experts to drain; 0 leaves at once"
    )

    @field_validator("refuse")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [kind for kind in value if kind not in DIRECTIVE_KINDS]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} is none of {', '.join(DIRECTIVE_KINDS)}")
        return value
