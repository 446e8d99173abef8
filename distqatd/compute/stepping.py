"""The passes of an expert: microbatches forward and backward, up to where their step is decided."""

import time
from collections.abc import Callable

from torch import Tensor

from distqatd.base.errors import ComputeError
from distqatd.base.ids import ExpertUid
from distqatd.compute.gradients import StepGradients
from distqatd.compute.passes import Passes
from distqatd.compute.results import LossResult
from distqatd.compute.stash import Tensors
from distqatd.compute.tally import Counted, Tally
from distqatd.data.tasks import Task


class Stepping(Counted):
    """What an expert does with the microbatches of a step; all of it blocks.

    Attributes:
        uid: name of the replica.
    """

    def __init__(
        self,
        uid: ExpertUid,
        passes: Passes,
        grads: StepGradients,
        tally: Tally,
        task: Task | None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Work with `passes`, which add up `grads`, and count in `tally`."""
        self.uid = uid
        self._passes = passes
        self._grads = grads
        self._tally = tally
        self._task = task
        self._timer = timer

    @property
    def stash_bytes(self) -> int:
        """Return the bytes that microbatches hold between forward and backward."""
        return self._passes.stash_bytes

    @property
    def step_is_open(self) -> bool:
        """Return whether an inner step has begun and was neither applied nor aborted."""
        return self._passes.is_open

    def forward(self, microbatch: int, inputs: Tensors, rng_seed: int) -> Tensors:
        """Run the stage on a microbatch and keep what its backward needs.

        Inputs are kept by reference until then: do not write to them.

        Raises:
            ComputeError: this microbatch of the open step was forwarded before.
        """
        began = self._timer()
        outputs = self._passes.forward(microbatch, inputs, rng_seed)
        self._tally.worked(self._timer() - began)
        return outputs

    def backward(
        self, microbatch: int, grads: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """Add this microbatch's gradients to the open step; return those of its inputs.

        Integer inputs, and all inputs of the first stage, get None.

        Raises:
            StepAborted: the microbatch does not wait here.
            ComputeError: number or shape of `grads` do not fit. The step must be aborted.
        """
        began = self._timer()
        input_grads = self._passes.backward(microbatch, grads)
        self._tally.worked(self._timer() - began)
        return input_grads

    def loss_backward(
        self, microbatch: int, inputs: Tensors, targets: Tensors, scale: float, rng_seed: int
    ) -> tuple[LossResult, tuple[Tensor | None, ...]]:
        """Run the last stage, compute the loss, go backward from `loss * scale`.

        Args:
            microbatch: its number, for messages.
            inputs: as in `forward`.
            targets: what the task compares outputs with.
            scale: samples of the microbatch / samples of the step, so that gradients add up to
                those of the unsplit batch; times the loss scale in fp16.
            rng_seed: as in `forward`.

        Raises:
            NonFinite: the loss is; nothing was added. Abort the step: at other stages too.
            ComputeError: this expert has no task.
        """
        if self._task is None:
            raise ComputeError(f"{self.uid} has no task; microbatch {microbatch} needs a loss")
        began = self._timer()
        result = self._passes.loss_backward(self._task, inputs, targets, scale, rng_seed)
        self._tally.worked(self._timer() - began)
        return result

    def gradients_overflow(self, num_microbatches: int) -> bool:
        """Return whether a step of so many microbatches is all here and cannot be applied.

        That is when a gradient is NaN or infinite, in fp16 for too large a loss scale.
        """
        return self._passes.num_done == num_microbatches and not self._grads.check()

    def _drop_step(self) -> None:
        self._passes.abort()
        self._grads.drop()
        self._tally.dropped()

    def _check_complete(self) -> None:
        if not self._passes.is_open:
            raise ComputeError(f"{self.uid} has no open inner step to apply")
        if self._passes.num_waiting:
            num = self._passes.num_waiting
            raise ComputeError(f"{num} microbatches of {self.uid} wait for their backward")
