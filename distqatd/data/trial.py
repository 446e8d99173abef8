"""Trials of a model in an environment: what reinforcement learning is measured by.

Loss and accuracy on kept samples do not tell how a policy does; only acting does. A trial asks for
the model's outputs again and again, so whoever evaluates can run the model in stages, anywhere.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


class Trial(Protocol):
    """Episodes that are played side by side. Used once."""

    def inputs(self) -> tuple[Tensor, ...] | None:
        """Return what the model is asked next, or None when all episodes are over."""
        ...

    def act(self, outputs: tuple[Tensor, ...]) -> None:
        """Go on with the model's outputs for the last `inputs`."""
        ...

    def sums(self) -> dict[str, float]:
        """Return `return`, the sum of what the episodes earned, and `episodes`, how many."""
        ...


@runtime_checkable
class HasTrial(Protocol):
    """A source that comes with an environment."""

    def trial(self) -> Trial:
        """Return a trial; each starts alike."""
        ...
