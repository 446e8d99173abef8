"""What an expert keeps between the forward and the backward of a microbatch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distqatd.base.errors import ComputeError, StepAborted

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """One microbatch between its forward and its backward.

    Attributes:
        inputs: leaves of the graph; those that need a gradient require one.
        rng_seed: seed of the forward, for a recomputation to draw the same numbers.
        nbytes: memory counted against the stash's budget.
        outputs: with their graph; None when it was dropped and must be recomputed.
        buffers: buffers as they were before the forward; only when `outputs` is None.
    """

    inputs: Tensors
    rng_seed: int
    nbytes: int
    outputs: Tensors | None = None
    buffers: tuple[Tensor, ...] = ()


class Stash:
    """Microbatches that wait for their backward, by number; graphs up to a budget of bytes.

    What is kept to recompute counts as well but is never refused: the caller bounds how many
    microbatches are in flight, and an input is small beside the graph that grows from it.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        """Return how many microbatches wait."""
        return len(self._kept)

    def fits(self, nbytes: int) -> bool:
        """Return whether `nbytes` more stay within the budget."""
        return self.used_bytes + nbytes <= self.budget_bytes

    def check_new(self, microbatch: int) -> None:
        """Refuse a microbatch that already waits.

        Raises:
            ComputeError: it does; the caller sent it twice.
        """
        if microbatch in self._kept:
            raise ComputeError(f"microbatch {microbatch} of this step was already forwarded")

    def put(self, microbatch: int, kept: Kept) -> None:
        """Keep a microbatch until `pop`."""
        self._kept[microbatch] = kept
        self.used_bytes += kept.nbytes

    def pop(self, microbatch: int) -> Kept:
        """Take a microbatch out.

        Raises:
            StepAborted: it does not wait here: never forwarded, or its step was aborted.
        """
        kept = self._kept.pop(microbatch, None)
        if kept is None:
            raise StepAborted(f"microbatch {microbatch} has no forward in the open step; replay it")
        self.used_bytes -= kept.nbytes
        return kept

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self.used_bytes = 0


def tensor_bytes(tensors: Tensors) -> int:
    """Return the bytes of the elements of `tensors`."""
    return sum(tensor.nbytes for tensor in tensors)


def measure_graph(module: nn.Module, run: Callable[[], Tensors]) -> tuple[Tensors, int]:
    """Call `run` and return its outputs and the bytes that their graph keeps alive.

    Counts each storage that autograd saved once, and the outputs, without parameters and buffers
    of `module`. Slow (a Python call per saved tensor): measure a shape once, not every time.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        # Detached: an output that its own graph saved would otherwise keep itself alive.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, _same):
        outputs = run()
    for output in outputs:
        note(output)
    return outputs, sum(size for pointer, size in saved.items() if pointer not in owned)


def _same(tensor: Tensor) -> Tensor:
    return tensor
