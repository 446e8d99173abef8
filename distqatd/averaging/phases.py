"""Where a round is, and whom it waits for."""

import enum
from dataclasses import dataclass

from distqatd.averaging.progress import Progress
from distqatd.base.ids import ExpertUid


class Phase(enum.Enum):
    """Where a round is."""

    GATHERING = "gathering"
    REDUCING = "reducing"
    ACCEPTING = "accepting"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom an open round waits for, for people to look at while it lasts.

    A member of a round that another daemon leads knows only that it waits for `leader`.
    `progress` is that of our own member, while means are exchanged.
    """

    round_id: str
    stage: str
    outer_step: int
    phase: str
    ready: tuple[ExpertUid, ...]
    waiting_for: tuple[ExpertUid, ...]
    seconds_left: float
    leader: ExpertUid | None = None
    progress: Progress | None = None
