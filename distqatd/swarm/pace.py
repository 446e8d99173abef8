"""How many inner steps each pipeline takes between two rounds, so that all arrive together.

Dynamic Local Updates [source: Async Local-SGD, arXiv:2401.09135, section 5]: a pipeline at a share
of the fastest one's speed takes that share of the inner steps. Contributions count by samples, so
a slow pipeline has as much say as it has trained, and nobody waits for it.
"""

import math
from collections.abc import Mapping

from distqatd.base.decision import Decision

NEAR = 0.9
"""A pipeline that is nearly as fast as the fastest takes all steps: that much is noise."""

KEPT = 0.15
"""A share is planned anew only if it is off by more than this part of itself."""


def plan_paces(
    step_s: Mapping[int, float], held: Mapping[int, float], inner_steps: int
) -> dict[int, Decision[float]]:
    """Decide which share of the inner steps each pipeline takes.

    Args:
        step_s: seconds of a step, by pipeline; those that are not known yet are left out.
        held: the shares that pipelines have now.
        inner_steps: of the fastest, from round to round.

    Returns:
        For each pipeline of `step_s` a share above 0 up to 1: of `inner_steps`, a whole number.
    """
    if not step_s:
        return {}
    fastest = min(step_s, key=lambda number: (step_s[number], number))
    return {
        number: _pace(number, step_s, held.get(number), fastest, inner_steps) for number in step_s
    }


def _pace(
    number: int,
    step_s: Mapping[int, float],
    held: float | None,
    fastest: int,
    inner_steps: int,
) -> Decision[float]:
    wanted = step_s[fastest] / step_s[number]
    steps = inner_steps if wanted >= NEAR else max(1, math.floor(inner_steps * wanted))
    share = steps / inner_steps
    if held is not None and wanted < NEAR and abs(share - held) <= KEPT * held:
        share = held
    steps = round(share * inner_steps)
    speed = f"pipeline {number} takes {step_s[number]:.3g} s a step"
    if number == fastest:
        return Decision(
            share, f"{steps} inner steps a round: {speed}, the fastest of {len(step_s)}"
        )
    if share == 1.0:
        return Decision(share, f"{steps} inner steps a round: {speed}, near pipeline {fastest}'s")
    return Decision(
        share,
        f"{steps} of {inner_steps} inner steps a round: {speed}, pipeline {fastest} "
        f"{step_s[fastest]:.3g} s; so both come to a round together",
    )
