"""A committed outer step that a replica which went on with inner steps has not taken over yet.

F = parameters of the fragment that it took; N = a flat state, see `optim.flat`. float32, CPU.

Source: Streaming DiLoCo, arXiv:2501.18512, section 2.2: tau steps after its contribution a replica
mixes the new anchor into its parameters, own * alpha + anchor * (1 - alpha).
"""
# ruff: noqa: N803, N806  names end in the letter of their shape

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from distqatd.optim.flat import FlatLayout


@dataclass(frozen=True, slots=True)
class TakingOver:
    """What is to be taken over.

    Attributes:
        span: where the fragment lies among the parameters.
        int_buffers: of the outer step.
        own_ints: of this replica when it contributed.
        since: (F,), what it had trained between the contribution that counted and its last one,
            as a pseudo-gradient; None if they are the same.
    """

    span: slice
    int_buffers: Mapping[str, int]
    own_ints: Mapping[str, int]
    since: Tensor | None = None

    def apply(
        self, layout: FlatLayout, stage: nn.Module, anchor_N: Tensor, own_share: float
    ) -> None:
        """Mix the anchor into the fragment of the stage; other fragments stay."""
        local_N = layout.gather(stage)
        target_F = anchor_N[self.span]
        if self.since is not None:
            target_F = target_F - self.since
        local_N[self.span] = local_N[self.span] * own_share + target_F * (1 - own_share)
        layout.take_over(local_N, anchor_N, own_share)
        layout.scatter(stage, local_N)
        now = layout.gather_ints(stage)
        trained = {name: value - self.own_ints.get(name, value) for name, value in now.items()}
        taken = {name: value + trained.get(name, 0) for name, value in self.int_buffers.items()}
        layout.scatter_ints(stage, taken)
