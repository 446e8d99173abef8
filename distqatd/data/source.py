"""What a source of samples offers; everything about order and batches is built on top of it."""

from typing import Protocol

from torch import Tensor

IGNORED = -1
"""A target that counts in no loss and no metric: padding, or a node without a label."""

Raw = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Inputs and targets as a source reads them; pixels may still be uint8, see `collate`."""


class Source(Protocol):
    """Samples by number. Reading the same numbers twice gives the same bits."""

    @property
    def num_samples(self) -> int:
        """Return how many samples there are; their numbers start at 0."""
        ...

    @property
    def num_classes(self) -> int:
        """Return C, which the model must have as many outputs of.

        Targets are in [0, C), or IGNORED. Where nothing is classified it is the size of what the
        model gives: channels of an image, actions of a policy.
        """
        ...

    def read(self, numbers: Tensor) -> Raw:
        """Return inputs and targets of the samples `numbers`, int64 (B,).

        Every tensor returned is on the CPU with the B samples first; float32, int64, or uint8
        where it holds pixels.
        """
        ...
