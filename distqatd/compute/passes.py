"""Forward and backward of the microbatches of one inner step on one stage.

The stage's own graph is cut at its inputs and outputs: what comes in becomes leaves, what goes
out is detached, and gradients cross the cut by hand. Gradients add up in `.grad` in the order of
the backwards, as in a plain loop over microbatches.
"""

import math

import torch
from torch import Tensor

from distqatd.base.errors import ComputeError, NonFinite
from distqatd.compute.buffers import BufferState, Saved
from distqatd.compute.precision import Precision, in_float32
from distqatd.compute.randomness import SeededForward
from distqatd.compute.results import LossResult
from distqatd.compute.stash import Kept, Stash, Tensors, measure_graph, tensor_bytes
from distqatd.data.tasks import Task
from distqatd.models.units import Stage

MAX_SIGNATURES = 64
"""Shapes whose graph size is remembered; text of free length would otherwise add up."""

Signature = tuple[tuple[torch.Size, torch.dtype], ...]


class Passes:
    """The open inner step of a stage: its graphs, and the buffers to go back to.

    A step opens with its first forward and ends with `close` or `abort`. Not thread-safe.

    Attributes:
        num_done: microbatches of the open step that have gone backward.
    """

    def __init__(
        self,
        stage: Stage,
        device: torch.device,
        *,
        stash_bytes: int,
        seed: int,
        is_first: bool,
        precision: Precision | None = None,
    ) -> None:
        self._stage = stage
        self._device = device
        self._precision = precision or Precision()
        self.num_done = 0
        self._is_first = is_first
        self._stash = Stash(stash_bytes)
        self._buffers = BufferState(stage)
        self._seeded = SeededForward(device, seed, stage.name)
        self._graph_bytes: dict[Signature, int] = {}
        self._at_start: Saved | None = None

    @property
    def is_open(self) -> bool:
        """Return whether a step has begun that was neither closed nor aborted."""
        return self._at_start is not None

    @property
    def num_waiting(self) -> int:
        """Return how many microbatches were forwarded and wait for their backward."""
        return len(self._stash)

    @property
    def stash_bytes(self) -> int:
        """Return the bytes that waiting microbatches hold now."""
        return self._stash.used_bytes

    def forward(self, microbatch: int, inputs: Tensors, rng_seed: int) -> Tensors:
        """Run the stage and keep what backward needs. Outputs are detached, not copied."""
        self._stash.check_new(microbatch)
        self._open()
        leaves = self._leaves(inputs)
        kept, outputs = self._run_and_keep(leaves, rng_seed)
        self._stash.put(microbatch, kept)
        return tuple(output.detach() for output in outputs)

    def backward(
        self, microbatch: int, grads: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """Go backward from the gradients of the outputs to those of the inputs."""
        kept = self._stash.pop(microbatch)
        outputs = kept.outputs if kept.outputs is not None else self._recompute(kept)
        roots, root_grads = _roots(outputs, grads)
        if roots:
            torch.autograd.backward(roots, root_grads)
        self.num_done += 1
        return tuple(leaf.grad for leaf in kept.inputs)

    def loss_backward(
        self, task: Task, inputs: Tensors, targets: Tensors, scale: float, rng_seed: int
    ) -> tuple[LossResult, tuple[Tensor | None, ...]]:
        """Run the stage, compute the loss and go backward from `loss * scale` at once."""
        self._open()
        leaves = self._leaves(inputs)
        outputs = in_float32(self._run(leaves, rng_seed))
        labels = tuple(target.to(self._device) for target in targets)
        loss = task.loss(outputs, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFinite(f"the loss is {value}; abort the step")
        sums = task.metrics(tuple(output.detach() for output in outputs), labels)
        # A product with 1.0 would change no bit, but it would be one more node of the graph.
        (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
        self.num_done += 1
        return LossResult(value, sums), tuple(leaf.grad for leaf in leaves)

    def close(self) -> None:
        """End the step; its changes of the buffers stay."""
        self._stash.clear()
        self._at_start = None
        self.num_done = 0

    def abort(self) -> None:
        """End the step and put the buffers back as they were before it."""
        self._stash.clear()
        self.num_done = 0
        if self._at_start is not None:
            self._buffers.restore(self._at_start)
            self._at_start = None

    def _open(self) -> None:
        if self._at_start is None:
            self._at_start = self._buffers.save()

    def _leaves(self, inputs: Tensors) -> Tensors:
        """Return `inputs` on the device as leaves; they share memory where no move is needed."""
        leaves = tuple(tensor.detach().to(self._device) for tensor in inputs)
        if self._is_first:
            return leaves
        return tuple(leaf.requires_grad_(leaf.is_floating_point()) for leaf in leaves)

    def _run(self, leaves: Tensors, rng_seed: int) -> Tensors:
        with self._precision.autocast():
            return self._seeded(lambda: self._stage(*leaves), rng_seed)

    def _run_and_keep(self, leaves: Tensors, rng_seed: int) -> tuple[Kept, Tensors]:
        signature = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        graph_bytes = self._graph_bytes.get(signature)
        if graph_bytes is not None and self._stash.fits(graph_bytes):
            outputs = self._run(leaves, rng_seed)
            return Kept(leaves, rng_seed, graph_bytes, outputs), outputs
        before = self._buffers.save()
        if graph_bytes is None:
            outputs, graph_bytes = self._measure(leaves, rng_seed, signature)
            if self._stash.fits(graph_bytes):
                return Kept(leaves, rng_seed, graph_bytes, outputs), outputs
        else:
            with torch.no_grad():
                outputs = self._run(leaves, rng_seed)
        nbytes = tensor_bytes(leaves) + tensor_bytes(before)
        return Kept(leaves, rng_seed, nbytes, buffers=before), outputs

    def _measure(self, leaves: Tensors, rng_seed: int, signature: Signature) -> tuple[Tensors, int]:
        outputs, nbytes = measure_graph(self._stage, lambda: self._run(leaves, rng_seed))
        if len(self._graph_bytes) >= MAX_SIGNATURES:
            self._graph_bytes.clear()
        self._graph_bytes[signature] = nbytes
        return outputs, nbytes

    def _recompute(self, kept: Kept) -> Tensors:
        """Run the forward again, from the same buffers and seed; statistics move only once."""
        with self._buffers.swapped(kept.buffers):
            return self._run(kept.inputs, kept.rng_seed)


def _roots(outputs: Tensors, grads: tuple[Tensor | None, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Pair outputs that have a graph with their gradients, moved to their device and dtype."""
    if len(outputs) != len(grads):
        raise ComputeError(f"{len(grads)} gradients for {len(outputs)} outputs")
    roots, root_grads = [], []
    for index, (output, grad) in enumerate(zip(outputs, grads, strict=True)):
        if grad is None or not output.requires_grad:
            continue
        if grad.shape != output.shape:
            shapes = f"{tuple(grad.shape)}, the output has {tuple(output.shape)}"
            raise ComputeError(f"gradient {index} has shape {shapes}")
        roots.append(output)
        root_grads.append(grad.to(output))
    return roots, root_grads
