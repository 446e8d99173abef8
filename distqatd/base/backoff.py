"""Exponential backoff with full jitter [source: AWS Architecture Blog, 2015]."""

from dataclasses import dataclass

from distqatd.base.rng import Rng


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `first_s` up to `cap_s`, each drawn uniformly below its bound."""

    first_s: float = 0.5
    cap_s: float = 30.0

    def delay_s(self, num_failures: int, rng: Rng) -> float:
        """Return how long to wait after the `num_failures`-th failure in a row (from 1)."""
        bound_s = min(self.cap_s, self.first_s * 2.0 ** min(num_failures - 1, 30))
        return rng.uniform(bound_s / 2, bound_s)
