"""What an expert hands out: results of inner steps, contributions and snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES

INNER_PREFIX = "inner."
OWN = "own"
INNER_META = ("inner", "inner_step", "loss_scale", OWN)


@dataclass(frozen=True, slots=True)
class LossResult:
    """Loss and metrics of one microbatch.

    Attributes:
        loss: mean over the microbatch, not scaled.
        sums: the task's metrics, sums that add up over microbatches; `count` divides them.
    """

    loss: float
    sums: dict[str, float]


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """An inner step that was applied.

    Attributes:
        inner_step: inner steps this expert has applied since it was made, this one included.
        samples_since_anchor: samples since the last outer step: the weight in the next one.
        grad_norm: Euclidean norm of all gradients together.
        is_repeat: the batch was in the book already: nothing was applied.
    """

    inner_step: int
    samples_since_anchor: int
    grad_norm: float
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Contribution:
    """What this expert brings to a round.

    Attributes:
        pseudo_gradient: flat float32 on the CPU, own memory: anchor - local for the parameters
            of the fragment that the round takes, or of all, then buffers as
            `FlatLayout.to_exchange` lays them out. The weighted mean of the members' is what
            `commit_outer` takes.
        samples: its weight; 0 if nothing was applied since the fragment was last taken.
        outer_step: of the anchor it is relative to; the round makes outer_step + 1.
        anchor_digest: of that anchor.
        int_buffers: integer buffers by name; the round takes the maximum of each.
        batches: the batches that `samples` came from, where they are known.
        steps: inner steps that `samples` came from.
        num_coded: elements of parameters, which a codec may round; statistics it may not.
        voters: who decides the next outer step, as the anchor says; none before the first.
        num_averaged: elements that are averaged; of the others, ranges, the largest counts.
    """

    pseudo_gradient: Tensor
    samples: int
    outer_step: int
    anchor_digest: str
    int_buffers: dict[str, int]
    batches: IntervalSet = NO_BATCHES
    steps: int = 0
    num_coded: int = 0
    voters: tuple[str, ...] = ()
    num_averaged: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a stage at a committed outer step: all a joiner needs.

    Its tensors are never written to, so a donor may serve them while it trains.

    Attributes:
        outer_step: number of outer steps committed; 0 is the seeded initial state.
        anchor_digest: `optim.digest.digest` of the anchor.
        layout_digest: `FlatLayout.digest` of the stage.
        tensors: `anchor` (N) and `momentum` (P), float32, CPU; `second_moment` (P) if the outer
            optimizer is adam. With inner state also what the inner optimizer held at that moment:
            `inner.<slot>`, see `compute.inner_state`.
        meta: plain values: `int_buffers`, a dict of int by name; `batches`, those inside the
            anchor, as `IntervalSet.to_list` writes them; `voters`, a sorted list of those who
            took this outer step and decide the next one. With inner state also `inner_step`, the
            steps this replica had applied, and `inner`, which parameters have inner state; where
            outer steps take fragments also `own`, see `compute.work`; in fp16 `loss_scale`, as
            `LossScale.body` writes it.
    """

    outer_step: int
    anchor_digest: str
    layout_digest: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_inner(self) -> bool:
        """Return whether the inner optimizer's state is there; it may be empty."""
        return "inner_step" in self.meta

    def committed(self) -> "Snapshot":
        """Return only what all replicas have in common."""
        if not self.has_inner:
            return self
        tensors = {n: t for n, t in self.tensors.items() if not n.startswith(INNER_PREFIX)}
        meta = {name: value for name, value in self.meta.items() if name not in INNER_META}
        return replace(self, tensors=tensors, meta=meta)

    def complete(self) -> "Snapshot":
        """Return this, if it has inner state.

        Raises:
            CheckpointError: it has none.
        """
        if not self.has_inner:
            text = f"no inner optimizer state was kept at outer step {self.outer_step}"
            raise CheckpointError(f"{text}; it will be from the next one on")
        return self
