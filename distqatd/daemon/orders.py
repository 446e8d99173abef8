"""What somebody wants a daemon's experts to do, as data: from the API, or from a directive."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distqatd.base.errors import TamperedDirective
from distqatd.identity.directive import ArgValue, Directive

DRAIN, RESUME, REASSIGN = "drain", "resume", "reassign"

MAX_DEADLINE_S = 24 * 3600.0
MAX_STAGE_CHARS = 64


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do.

    Attributes:
        kind: drain, resume or reassign.
        scope: the experts it is about, by uid; empty: all experts of the daemon.
        stage: where to move to, if it is a reassign.
        deadline_s: how long a drain may take before what is left is cut, seconds.
        is_forced: do it although a stage loses its last replica.
    """

    kind: str
    scope: tuple[str, ...] = ()
    stage: str = ""
    deadline_s: float = 120.0
    is_forced: bool = False

    def args(self) -> Mapping[str, ArgValue]:
        """Return what a directive carries beside kind and scope."""
        return {
            "stage": self.stage,
            "deadline_s": float(self.deadline_s),
            "is_forced": self.is_forced,
        }

    @classmethod
    def of(cls, directive: Directive) -> "Order":
        """Return the order in a directive, whose kind and scope were checked.

        Raises:
            TamperedDirective: an argument is missing, or makes no sense.
        """
        args: Mapping[str, Any] = directive.args
        match args:
            case {"stage": str(stage), "deadline_s": float(deadline_s), "is_forced": bool(forced)}:
                pass
            case _:
                raise TamperedDirective(f"the directive to {directive.kind} lacks an argument")
        if not 0 <= deadline_s <= MAX_DEADLINE_S or len(stage) > MAX_STAGE_CHARS:
            raise TamperedDirective(
                f"the directive's deadline of {deadline_s} s or its stage makes no sense"
            )
        return cls(directive.kind, directive.scope, stage, deadline_s, forced)

    def __str__(self) -> str:
        """Return the order as people say it."""
        words = [self.kind, *self.scope]
        return " ".join([*words, "to", self.stage] if self.stage else words)
