"""What a source of samples offers; everything about order and batches is built on top of it."""

from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """Samples by number. Reading the same numbers twice gives the same bits."""

    @property
    def num_samples(self) -> int:
        """Return how many samples there are; their numbers start at 0."""
        ...

    @property
    def num_classes(self) -> int:
        """Return C; targets are in [0, C) and the model must have as many outputs."""
        ...

    def read(self, numbers: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return inputs and targets of the samples `numbers`, int64 (B,).

        Every tensor returned is on the CPU, float32 or int64, with the B samples first.
        """
        ...
