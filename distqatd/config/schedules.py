"""What changes over a run, as pure functions of committed state: lengths of rounds, rates.

Every replica computes the same from the same outer step, and a joiner knows all of it from the
snapshot it loads: it is never behind.

    outer step   0 .. W-1            W .. W+R-1             from W+R on
    inner steps  warm_start's        growing                inner_steps
    outer step   no momentum         the outer optimizer, its momentum coupled to the inner steps
    takes        all                 all                    one fragment after the other; the last
                                                            outer step of a run takes all
"""

import math
from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.config.diloco import DilocoConfig, InnerOptimConfig

USUAL_MOMENTUM = 0.9
"""Of the outer optimizer in long rounds [source: DiLoCo, arXiv:2311.08105, section 3]."""

_ROUNDS_PER_STEP = 5.0
_NEAR = 0.1
"""A given momentum so far above the coupled one is worth a warning."""


def coupled_momentum(inner_steps: int) -> float:
    """Return the outer momentum for rounds of so many inner steps: min(0.9, 1 - 5 / H).

    The outer optimizer adds up about 1 / (1 - momentum) rounds. In short rounds these point the
    same way, and 0.9 overshoots: rounds of 10 steps end at a validation loss of 2.23 with 0.9 and
    of 2.07 with 0.5, rounds of 50 at 2.13 with 0.9 (character GPT, 4 replicas). The line through
    these two points also says 0 for 5 steps and fewer: plain averaging, as in local SGD.
    """
    return min(USUAL_MOMENTUM, max(0.0, 1.0 - _ROUNDS_PER_STEP / inner_steps))


@dataclass(frozen=True, slots=True)
class OuterRule:
    """How one outer step is taken: rate and momentum of sgd.

    With `is_warm_start` by the rate alone, whatever the optimizer; its moments stay as they are.
    """

    lr: float
    momentum: float
    is_warm_start: bool = False


class RunSchedule:
    """The schedules of a run. Immutable; asks nothing but its arguments."""

    def __init__(self, diloco: DilocoConfig) -> None:
        self._diloco = diloco
        self._warm = diloco.warm_start
        self._total = self.first_step(diloco.outer_steps)

    @property
    def total_steps(self) -> int:
        """Return the inner steps of one replica in the whole run."""
        return self._total

    @property
    def is_streaming(self) -> bool:
        """Return whether replicas differ from their anchor also right after an outer step."""
        return self._diloco.fragments > 1 or self._diloco.overlap_steps > 0

    @property
    def num_fragments(self) -> int:
        """Return into how many parts a stage is cut."""
        return self._diloco.fragments

    def is_warm_start(self, outer_step: int) -> bool:
        """Return whether the round on the anchor of `outer_step` belongs to the warm start."""
        return outer_step < self._warm.length

    def inner_steps(self, outer_step: int) -> int:
        """Return the inner steps from the anchor of `outer_step` to the next outer step."""
        warm, usual = self._warm, self._diloco.inner_steps
        if outer_step < warm.length:
            return warm.round_steps
        done = outer_step - warm.length
        if done >= warm.ramp:
            return usual
        # Geometric, so that each round is longer than the one before by the same factor.
        share = (done + 1) / (warm.ramp + 1)
        factor = math.pow(usual / warm.round_steps, share)
        return max(1, round(warm.round_steps * factor))

    def first_step(self, outer_step: int) -> int:
        """Return the global step of an anchor: the inner steps that lead to it."""
        warm = self._warm
        in_warm = min(outer_step, warm.length)
        last = min(outer_step, warm.length + warm.ramp)
        in_ramp = sum(self.inner_steps(step) for step in range(warm.length, last))
        usual = max(0, outer_step - warm.length - warm.ramp)
        return in_warm * warm.round_steps + in_ramp + usual * self._diloco.inner_steps

    def global_step(self, outer_step: int, steps_since_anchor: float) -> float:
        """Return how far the run is, in inner steps, `steps_since_anchor` after an anchor."""
        return self.first_step(outer_step) + steps_since_anchor

    def lr_factor(self, outer_step: int, steps_since_anchor: float) -> float:
        """Return what the inner learning rate is multiplied with in the next inner step."""
        step = self.global_step(outer_step, steps_since_anchor)
        return lr_factor(self._diloco.inner_optim, step, self._total)

    def outer_rule(self, outer_step: int) -> OuterRule:
        """Return how sgd takes the outer step on the anchor of `outer_step`."""
        if self.is_warm_start(outer_step):
            return OuterRule(self._warm.lr, 0.0, is_warm_start=True)
        outer = self._diloco.outer_optim
        momentum = outer.sgd_momentum
        if momentum is None:
            momentum = coupled_momentum(self.inner_steps(outer_step) * self._turns(outer_step))
        return OuterRule(outer.sgd_lr, momentum)

    def fragment(self, outer_step: int) -> int | None:
        """Return which part the outer step on the anchor of `outer_step` takes; None: all.

        Staggered [source: Streaming DiLoCo, arXiv:2501.18512, section 2.1]: by the number of the
        outer step alone, so that whoever has the anchor knows it.
        """
        is_last = outer_step + 1 >= self._diloco.outer_steps
        if self._turns(outer_step) == 1 or is_last:
            return None
        return self._since_ramp(outer_step) % self._diloco.fragments

    def overlap(self, outer_step: int) -> int:
        """Return the inner steps that go on while the outer step on this anchor is under way.

        None in rounds that begin to be long, and in the last one, which all wait for.
        """
        is_last = outer_step + 1 >= self._diloco.outer_steps
        is_early = self._since_ramp(outer_step) < 0
        return 0 if is_last or is_early else self._diloco.overlap_steps

    @property
    def mix_alpha(self) -> float:
        """Return the share of its own parameters that a replica then keeps."""
        return self._diloco.mix_alpha

    def outer_count(self, outer_step: int) -> int:
        """Return which update of its fragment the one on the anchor of `outer_step` is, from 1.

        Those of the warm start are not counted.
        """
        turns = self._turns(outer_step)
        if turns == 1:
            return outer_step + 1 - self._warm.length
        return self._warm.ramp + self._since_ramp(outer_step) // turns + 1

    def _turns(self, outer_step: int) -> int:
        """Return in how many outer steps every parameter is averaged once at that time."""
        return self._diloco.fragments if self._since_ramp(outer_step) >= 0 else 1

    def _since_ramp(self, outer_step: int) -> int:
        return outer_step - self._warm.length - self._warm.ramp

    def momentum_fits(self) -> Decision[bool]:
        """Decide whether a given outer momentum suits the length of rounds; it is used anyway."""
        outer = self._diloco.outer_optim
        usual = self._diloco.inner_steps * self._diloco.fragments
        coupled = coupled_momentum(usual)
        given = outer.sgd_momentum
        if outer.type != "sgd" or given is None or given <= coupled + _NEAR:
            return Decision(value=True, reason="the outer momentum suits the length of rounds")
        return Decision(
            value=False,
            reason=f"outer_optim.sgd_momentum {given:g} is high for rounds of {usual} inner steps;"
            f" leave it out for {coupled:g}, or take longer rounds",
        )


def lr_factor(config: InnerOptimConfig, step: float, total_steps: int) -> float:
    """Return the share of the learning rate at a global step, from 0.

    Linear warm-up to 1; then constant, a half cosine down to `min_lr_ratio`, or 1 until the last
    `decay_steps` and a line down to `min_lr_ratio` [source: WSD, arXiv:2404.06395, section 4].
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    floor = config.min_lr_ratio
    if config.lr_schedule == "cosine":
        span = max(1, total_steps - config.warmup_steps)
        share = min(1.0, (step - config.warmup_steps) / span)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
    if config.lr_schedule == "wsd":
        span = config.decay_steps or max(1, total_steps // 10)
        share = min(1.0, max(0.0, (step - (total_steps - span)) / span))
        return 1 - (1 - floor) * share
    return 1.0
