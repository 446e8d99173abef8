"""How many steps each pipeline takes between two rounds, so that all arrive together.

A pace is the number of steps that a pipeline takes for each inner step of the run. Two ways:

- fewer steps for slow ones, paces up to 1: Dynamic Local Updates [source: Async Local-SGD,
  arXiv:2401.09135, section 5]. The fastest takes all inner steps;
- larger batches for fast ones, paces from 1 on: the slowest takes all inner steps, and a pipeline
  that is k times as fast gathers k steps into each of its updates.

Contributions count by samples, so a slow pipeline has as much say as it has trained, and nobody
waits for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distqatd.base.decision import Decision

NEAR = 0.9
"""A pipeline within so much of the one all are compared with has its pace: that much is noise."""

KEPT = 0.15
"""A pace is planned anew only if it is off by more than this part of itself."""

MAX_PACE = 64.0
"""Steps for one of the run at most: a pipeline that is faster still waits."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What paces are planned from.

    Attributes:
        step_s: seconds of a step, by pipeline; those that are not known yet are left out.
        held: the paces that pipelines have now.
        inner_steps: of the run, from round to round.
        by_batch: larger batches for fast pipelines, not fewer steps for slow ones.
    """

    step_s: Mapping[int, float]
    held: Mapping[int, float]
    inner_steps: int
    by_batch: bool = False

    @property
    def reference(self) -> int:
        """Return the pipeline of pace 1: the fastest, or by batch the slowest."""
        sign = -1 if self.by_batch else 1
        return min(self.step_s, key=lambda number: (sign * self.step_s[number], number))


def plan_paces(measured: Measured) -> dict[int, Decision[float]]:
    """Decide the pace of each pipeline that was measured: a whole number of steps a round."""
    return {number: _pace(number, measured) for number in measured.step_s}


def _pace(number: int, measured: Measured) -> Decision[float]:
    step_s, reference, usual = measured.step_s, measured.reference, measured.inner_steps
    wanted = min(step_s[reference] / step_s[number], MAX_PACE)
    is_near = NEAR <= wanted <= 1 / NEAR
    steps = usual if is_near else max(1, math.floor(usual * wanted))
    pace = steps / usual
    held = measured.held.get(number)
    if held is not None and not is_near and abs(pace - held) <= KEPT * held:
        pace = held
    return Decision(pace, _reason(number, pace, measured))


def _reason(number: int, pace: float, measured: Measured) -> str:
    step_s, reference, usual = measured.step_s, measured.reference, measured.inner_steps
    steps = round(pace * usual)
    speed = f"pipeline {number} takes {step_s[number]:.3g} s a step"
    if number == reference:
        which = "slowest" if measured.by_batch else "fastest"
        return f"{steps} inner steps a round: {speed}, the {which} of {len(step_s)}"
    if pace == 1.0:
        return f"{steps} inner steps a round: {speed}, near pipeline {reference}'s"
    gathered = f", {round(pace)} in each update" if round(pace) > 1 else ""
    taken = f"{steps} steps" if measured.by_batch else f"{steps} of {usual} inner steps"
    return (
        f"{taken} a round{gathered}: {speed}, pipeline {reference} {step_s[reference]:.3g} s; "
        "so both come to a round together"
    )
