"""Running a stage from its anchor, while its own parameters are in the middle of training."""

import torch
from torch import Tensor
from torch.func import functional_call

from distqatd.compute.precision import Precision
from distqatd.compute.stash import Tensors
from distqatd.models.units import Stage
from distqatd.optim.flat import FlatLayout


class AnchorForward:
    """Evaluates a stage with other parameters than its own. Not thread-safe.

    Args:
        stage: on its device, in train mode.
        layout: of the stage.
        precision: the arithmetic, that of training.
    """

    def __init__(
        self, stage: Stage, layout: FlatLayout, precision: Precision | None = None
    ) -> None:
        self._precision = precision or Precision()
        self._stage = stage
        self._layout = layout
        self._tensors: dict[str, Tensor] | None = None
        self._anchor: Tensor | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensors, anchor: Tensor | None) -> Tensors:
        """Return the outputs in eval mode, from a flat anchor or from the stage's own tensors.

        Training state is left alone, also with a step open. `inputs` are on the device.
        """
        tensors = self._by_name(anchor) if anchor is not None else {}
        self._stage.eval()
        try:
            with self._precision.autocast():
                outputs: Tensors = functional_call(self._stage, tensors, inputs)
        finally:
            self._stage.train()
        return outputs

    def forget(self) -> None:
        """Free the anchor that was evaluated last."""
        self._tensors = self._anchor = None

    def _by_name(self, anchor: Tensor) -> dict[str, Tensor]:
        """Return the anchor by name, on the device and in the stage's dtypes; made once."""
        if self._tensors is None or self._anchor is not anchor:
            own = self._stage.state_dict()
            views = self._layout.views(anchor)
            self._tensors = {name: view.to(own[name]) for name, view in views.items()}
            self._anchor = anchor
        return self._tensors
