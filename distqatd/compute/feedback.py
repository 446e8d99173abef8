"""Error feedback: what a lossy codec left out of a contribution goes into the next one.

P = flattened parameters, float32, CPU. The order in every round [source: Seide et al., 2014;
Karimireddy et al., arXiv:1901.09847]: add the rest to anchor - local, encode, and keep what the
encoding is short of. The rest changes only when a round commits, and only in the fragment that it
takes: after an abort the same is tried again, over the longer span. State from elsewhere comes with
no rest; see `clear`.
"""
# ruff: noqa: N803, N806  names end in the letter of their shape

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.compute.results import INNER_PREFIX
from distqatd.optim.outer import EVERYTHING

NAME: Final = INNER_PREFIX + "rest"
"""In snapshots with inner state: it is this replica's, as the inner optimizer's state is."""


class ErrorFeedback:
    """The rest of one replica of one stage; nothing while contributions travel exactly."""

    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self._rest_P: Tensor | None = None

    def add_to(self, pseudo_gradient_P: Tensor) -> None:
        """Add the rest to a pseudo-gradient, in place."""
        if self._rest_P is not None:
            pseudo_gradient_P.add_(self._rest_P)

    def settle(self, rest_F: Tensor | None, span: slice = EVERYTHING) -> None:
        """Take the rest of a round that committed; None: everything was delivered.

        Args:
            rest_F: of the fragment that the round took, (F,).
            span: where that lies in P.
        """
        is_all = len(range(self._num_params)[span]) == self._num_params
        if is_all or (rest_F is None and self._rest_P is None):
            self._rest_P = rest_F
            return
        old_P = self._rest_P
        rest_P = torch.zeros(self._num_params) if old_P is None else old_P.clone()
        rest_P[span] = 0.0 if rest_F is None else rest_F
        self._rest_P = rest_P

    def load(self, rest_P: Tensor | None) -> None:
        """Take what `read` gave."""
        self._rest_P = rest_P

    def clear(self) -> None:
        """Forget the rest: the state was loaded, or the rest went into the parameters."""
        self._rest_P = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the rest by its name in snapshots; never written to again."""
        return {} if self._rest_P is None else {NAME: self._rest_P}

    def read(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """Return the rest that a snapshot holds, if any.

        Raises:
            CheckpointError: it is of another stage.
        """
        rest_P = tensors.get(NAME)
        if rest_P is not None and rest_P.shape != (self._num_params,):
            found, wanted = tuple(rest_P.shape), (self._num_params,)
            raise CheckpointError(f"the snapshot's rest has shape {found}, this stage {wanted}")
        return rest_P
