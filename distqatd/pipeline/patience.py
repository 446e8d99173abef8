"""How long a step may take before its trainer asks whether every stage still lives. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from distqatd.base.decision import Decision

MIN_STEPS = 8
"""Steps of a route to be known before they say what is normal."""

UNKNOWN_S = 5.0
"""Seconds before the first question while they are not."""

FLOOR_S = 1.0
"""Not asked earlier than this, seconds: a question costs little, but not nothing."""

NUM_DEVIATIONS = 10.0
NUM_MEDIANS = 4.0
"""A step is late when it is so many deviations above the median, and so many times the median."""

GIVE_UP_FACTOR = 10.0
GIVE_UP_FLOOR_S = 15.0
"""A step whose stages all answer, but do not get on, is given up after so much longer, at least
as long as a link may be silent."""

MAD_TO_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, for normally distributed values."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds from the start of a step.

    Attributes:
        ask_s: until the stages are asked whether they live; asked again each time it passes.
        give_up_s: until the step is given up although they do.
    """

    ask_s: float
    give_up_s: float


def step_patience(steps_s: Sequence[float], cap_s: float) -> Decision[Patience]:
    """Decide from a route's own steps how long the next one may take.

    Args:
        steps_s: seconds of the last steps of this route, in any order.
        cap_s: never longer than this: the time limits of the run's configuration.
    """
    if len(steps_s) < MIN_STEPS:
        return Decision(
            Patience(min(UNKNOWN_S, cap_s), cap_s),
            f"{len(steps_s)} steps are known, {MIN_STEPS} are needed to say what is normal",
        )
    middle = median(steps_s)
    deviation = MAD_TO_SIGMA * median(abs(step_s - middle) for step_s in steps_s)
    late_s = max(FLOOR_S, NUM_MEDIANS * middle, middle + NUM_DEVIATIONS * deviation)
    ask_s = min(late_s, cap_s)
    give_up_s = min(max(GIVE_UP_FLOOR_S, GIVE_UP_FACTOR * ask_s), cap_s)
    return Decision(
        Patience(ask_s, give_up_s),
        f"{len(steps_s)} steps took {middle:.3f} s with a deviation of {deviation:.3f} s: "
        f"late after {ask_s:.1f} s, given up after {give_up_s:.1f} s",
    )
