"""The parts of a stage that outer steps average in turn: ranges of its flat parameters.

P = flattened parameters; X = a contribution to an outer step of everything, see `optim.flat`;
F = a contribution to one of a fragment: its parameters, then whatever of X is no parameter.
Statistics, ranges and integer buffers are small and change in every forward: they go with every
fragment. All float32, CPU.

Source: Streaming DiLoCo, arXiv:2501.18512, section 2.1. There a fragment is a set of layers; here
it is a range of P, so that any stage can be cut, and a fragment stays one slice of every vector.
"""
# ruff: noqa: N803, N806  names end in the letter of their shape

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.optim.flat import FlatLayout

Span = tuple[int, int]
"""First element of a range of P, and the one after its last."""

_SLACK = 8
"""A cut moves to the edge of a tensor that is nearer than this part of a fragment."""


def cut(sizes: Sequence[int], num_fragments: int) -> tuple[Span, ...]:
    """Cut tensors that lie one after the other into ranges of about the same number of elements.

    A pure function of the sizes, so that all replicas of a stage cut alike. Cuts lie between two
    tensors where one is near, so that most tensors are averaged at one time; a range is at most a
    quarter longer or shorter than the average, give or take an element.

    Args:
        sizes: elements of each tensor, in order.
        num_fragments: how many ranges, at most as many as there are elements.
    """
    total = sum(sizes)
    edges, slack = [0, *accumulate(sizes)], total // (_SLACK * num_fragments)
    cuts = [0]
    for number in range(1, num_fragments):
        even = total * number // num_fragments
        nearest = min(edges, key=lambda edge: (abs(edge - even), edge))
        cuts.append(nearest if abs(nearest - even) <= slack else even)
    return tuple(zip(cuts, [*cuts[1:], total], strict=True))


class Fragments:
    """The fragments of one stage. A fragment is a number from 0; None is all of them together.

    Attributes:
        spans: where each lies.
    """

    def __init__(self, layout: FlatLayout, num_fragments: int) -> None:
        """Cut the parameters of a stage.

        Raises:
            ConfigError: it has fewer elements than fragments.
        """
        sizes = [entry.numel for entry in layout.entries if entry.kind == "param"]
        if layout.num_params < num_fragments:
            raise ConfigError(
                f"diloco.fragments {num_fragments} is above the {layout.num_params} parameters of"
                " a stage; lower it"
            )
        self.spans = cut(sizes, num_fragments)
        self._num_params = layout.num_params
        self._num_exchanged = layout.num_exchanged

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.spans)

    def numbers(self, fragment: int | None) -> Sequence[int]:
        """Return the numbers of the fragments that are meant."""
        return range(len(self.spans)) if fragment is None else (fragment,)

    def span(self, fragment: int | None) -> slice:
        """Return where a fragment lies in P."""
        if fragment is None:
            return slice(0, self._num_params)
        return slice(*self.spans[fragment])

    def num_left_out(self, fragment: int | None) -> int:
        """Return the elements of X that F lacks."""
        return self._num_params - len(range(self._num_params)[self.span(fragment)])

    def take(self, whole_X: Tensor, fragment: int | None) -> Tensor:
        """Return F, a new vector; X itself for all."""
        if fragment is None:
            return whole_X
        return torch.cat([whole_X[self.span(fragment)], whole_X[self._num_params :]])

    def put(self, values_F: Tensor, fragment: int | None) -> Tensor:
        """Return X with the values of F where they belong, and zeros in the other fragments.

        Raises:
            CheckpointError: F has another length.
        """
        num_expected = self._num_exchanged - self.num_left_out(fragment)
        if values_F.shape != (num_expected,):
            found, fits = tuple(values_F.shape), (num_expected,)
            raise CheckpointError(f"an average of shape {found}, this stage needs {fits}")
        if fragment is None:
            return values_F
        span = self.span(fragment)
        whole_X = torch.zeros(self._num_exchanged)
        whole_X[span] = values_F[: span.stop - span.start]
        whole_X[self._num_params :] = values_F[span.stop - span.start :]
        return whole_X
