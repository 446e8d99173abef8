"""The expert: one replica of one stage, its inner optimizer, its anchor and outer optimizer.

All methods block and run on the executor's thread, one at a time; the caller keeps at most one
inner step open. The properties and `snapshot` may be read from any thread.

An inner step: forward and backward (or loss_backward) a microbatch, then `apply` or `abort`. An
outer step: `contribution`, an average made elsewhere, `commit_outer`; without, the next is of both.
"""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from distqatd.base.errors import ComputeError, NonFinite
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.compute.anchored import AnchoredStage
from distqatd.compute.book import NO_BATCHES, BatchBook
from distqatd.compute.carrying import Carried
from distqatd.compute.evaluation import AnchorForward
from distqatd.compute.gradients import StepGradients
from distqatd.compute.passes import Passes
from distqatd.compute.precision import Precision
from distqatd.compute.results import ApplyResult as ApplyResult
from distqatd.compute.results import Contribution as Contribution
from distqatd.compute.results import LossResult as LossResult
from distqatd.compute.results import Snapshot as Snapshot
from distqatd.compute.scale import LossScale
from distqatd.compute.snapshots import read_voters
from distqatd.compute.stash import Tensors
from distqatd.compute.stepping import Stepping
from distqatd.compute.tally import Tally
from distqatd.compute.work import Standing, Work
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig, InnerOptimConfig, OuterOptimConfig
from distqatd.data.tasks import Task
from distqatd.models.units import Stage


class Expert(Stepping):
    """One replica of a stage, all it trains with, and its `pace`: steps for each one of the run."""

    def __init__(  # noqa: PLR0913  built in one place, by the expert role
        self,
        uid: ExpertUid,
        stage: Stage,
        inner: InnerOptimConfig,
        outer: OuterOptimConfig,
        *,
        device: torch.device | str = "cpu",
        task: Task | None = None,
        stash_bytes: int = 2 << 30,
        seed: int = 0,
        is_first: bool = False,
        timer: Callable[[], float] = time.perf_counter,
        schedule: RunSchedule | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Take over `stage`, move it to `device` and make its state the anchor of outer step 0.

        Args:
            uid: name of this replica.
            stage: freshly built; nobody else may touch it from now on.
            inner: the inner optimizer.
            outer: the outer optimizer.
            device: where to compute.
            task: the loss; needed by `loss_backward` only.
            stash_bytes: memory for graphs between forward and backward; above it they are dropped
                and recomputed.
            seed: of the run; dropout draws from (seed, stage name, request's rng_seed).
            is_first: the stage takes the data itself, whose gradient nobody wants.
            timer: seconds for `samples_per_s`; the simulator gives virtual time.
            schedule: of the run; None: that of a run with these optimizers and nothing else set.
            precision: the arithmetic of forward and backward; None: fp32.

        Raises:
            ConfigError: the stage has no trainable parameters.
        """
        self.device = torch.device(device)
        self.stage = stage.to(self.device).train()
        schedule = schedule or RunSchedule(DilocoConfig(inner_optim=inner, outer_optim=outer))
        self._anchored = AnchoredStage(stage, inner, outer, timer, schedule)
        self.layout = self._anchored.layout
        self.layout_digest = self._anchored.layout_digest
        self.pace = 1.0
        passes = Passes(
            stage,
            self.device,
            stash_bytes=stash_bytes,
            seed=seed,
            is_first=is_first,
            precision=precision,
        )
        tally = Tally(work=Work((0,) * len(self._anchored.fragments)))
        super().__init__(uid, passes, StepGradients(stage.parameters()), tally, task, timer)
        self._evaluate = AnchorForward(stage, self.layout, precision)
        self._contributed: Contribution | None = None
        self._goes_on = False

    @property
    def outer_step(self) -> int:
        """Return the number of committed outer steps."""
        return self._anchored.snapshot.outer_step

    @property
    def anchor_digest(self) -> str:
        """Return the digest of the anchor."""
        return self._anchored.snapshot.anchor_digest

    @property
    def loss_scale(self) -> LossScale | None:
        """Return the loss scale of the last step that was applied, if it had one."""
        return self._anchored.inner.loss_scale

    def apply(
        self, num_samples: int, batch: int | None = None, scale: LossScale | None = None
    ) -> ApplyResult:
        """End the open step with an update of the parameters.

        Args:
            num_samples: samples of the step: its weight in the next outer step.
            batch: number of the batch in the run. One that is in the book already is a
                repetition: its gradients are dropped. None keeps no book, for loops of one's own.
            scale: in fp16, that of the step's losses; it is taken out of the gradients.

        Raises:
            NonFinite: a gradient is. The step was aborted instead.
            ComputeError: no step is open, or microbatches still wait for their backward.
        """
        began = self._timer()
        self._check_complete()
        if batch is not None and batch in self.book:
            self.abort()
            return ApplyResult(self.inner_step, self.samples_since_anchor, 0.0, is_repeat=True)
        norm = self._grads.settle(scale.value if scale is not None else 1.0)
        if math.isnan(norm):
            self.abort()
            raise NonFinite(f"gradients of {self.uid} have NaN or infinite values; step dropped")
        num_steps = self.steps_since_anchor
        self._anchored.updates.update(norm, self.outer_step, num_steps, num_samples, self.pace)
        self._anchored.inner.loss_scale = scale
        self._grads.drop()
        self._passes.close()
        self._tally.worked(self._timer() - began)
        self._tally.applied(num_samples, batch)
        return ApplyResult(self.inner_step, self.samples_since_anchor, norm)

    def abort(self) -> None:
        """Drop the open step: gradients, graphs, and what it changed in buffers. Idempotent.

        If the parameters are not finite any more, which may be why the step failed, they and the
        inner optimizer go back to the last committed outer step: `num_divergences` counts that.
        """
        was_open = self._passes.is_open
        self._drop_step()
        if was_open and not self._grads.params_are_finite():
            self._go_back()

    def evaluate(self, inputs: Tensors, *, anchor: bool = True) -> Tensors:
        """Run the stage in eval mode; training state is left alone. Outputs are on the device."""
        moved = tuple(tensor.detach().to(self.device) for tensor in inputs)
        return self._evaluate(moved, self.snapshot().tensors["anchor"] if anchor else None)

    def contribution(self, *, goes_on: bool = False) -> Contribution:
        """Return what this expert brings to the next outer step.

        An outer step that was committed and not taken over yet is taken over first.

        Args:
            goes_on: inner steps go on until the outer step is committed, and after it until
                `take_over` is called.

        Raises:
            NonFinite: parameters or buffers have diverged; they went back to the anchor.
        """
        self.take_over()
        self._goes_on = goes_on
        try:
            values = self._anchored.difference()
        except NonFinite as error:
            self._go_back()
            raise NonFinite(f"{self.uid} went back to its anchor: {error}") from error
        fragments, fragment = self._anchored.fragments, self._anchored.fragment(self.outer_step)
        num_left_out = fragments.num_left_out(fragment)
        self._contributed = Contribution(
            pseudo_gradient=fragments.take(values, fragment),
            samples=self._tally.work.weight(fragments.numbers(fragment)),
            outer_step=self.outer_step,
            anchor_digest=self.anchor_digest,
            int_buffers=self.layout.gather_ints(self.stage),
            batches=self.book.local,
            steps=self.steps_since_anchor,
            num_coded=self.layout.num_params - num_left_out,
            voters=read_voters(self.snapshot()),
            num_averaged=self.layout.num_averaged - num_left_out,
        )
        return self._contributed

    def commit_outer(
        self,
        mean: Tensor,
        outer_step: int,
        int_buffers: Mapping[str, int],
        batches: IntervalSet = NO_BATCHES,
        rest: Tensor | None = None,
        voters: tuple[str, ...] = (),
    ) -> str:
        """Apply the outer step to the anchor, make it the local state, return its digest.

        If steps went on after the contribution it becomes part of the local state later, with
        `take_over`; then this may be called while an inner step is open.

        The inner optimizer keeps its state, as in DiLoCo; counters since the anchor start at 0.
        Where the step takes a fragment, that holds for this fragment and for buffers only.

        Args:
            mean: weighted mean of the members' contributions; same form.
            outer_step: the one this makes.
            int_buffers: maximum over the members.
            batches: what the members trained on since the anchor: now in every replica's book.
            rest: what a codec took from our contribution.
            voters: of the next outer step.

        Raises:
            ComputeError: an inner step is open, or `outer_step` is not the next one.
            NonFinite: the mean has NaN or infinite values. Nothing was changed.
            CheckpointError: the mean has another length.
        """
        self._check_next(outer_step)
        mine = self._contributed if self._goes_on else None
        local = self.book.local.minus(mine.batches) if mine is not None else NO_BATCHES
        book = BatchBook(self.book.committed(batches).anchor, local)
        after = Standing(book, self._work_after(outer_step, mine), self.inner_step, voters)
        self._anchored.commit(mean, outer_step, int_buffers, rest, after, mine)
        self._start_over(book, after.work)
        self._goes_on = False
        return self.anchor_digest

    def _work_after(self, outer_step: int, mine: Contribution | None) -> Work:
        """Return what is left after an outer step took `mine`; None: all of it."""
        numbers, work = self._anchored.taken_by(outer_step - 1), self._tally.work
        if mine is None:
            return work.less(numbers, work.weight(numbers), work.steps)
        return work.less(numbers, mine.samples, mine.steps)

    def take_over(self) -> None:
        """Make the last outer step part of the local state, if steps went on while it was made.

        Raises:
            ComputeError: an inner step is open.
        """
        if not self._anchored.is_ahead:
            return
        self._check_closed()
        self._anchored.take_over(Standing(self.book, self._tally.work, self.inner_step))

    def train_on(self, made: Contribution, inside: Contribution) -> None:
        """Put what was trained from `inside` to `made` on top of the anchor that holds `inside`."""
        self._anchored.train_on(made, inside)
        numbers = self._anchored.taken_by(inside.outer_step)
        num_samples, num_steps = made.samples - inside.samples, made.steps - inside.steps
        work = self._tally.work.less(numbers, -num_samples, -num_steps)
        local = self.book.local.union(made.batches.minus(inside.batches))
        book = BatchBook(self.book.anchor, local)
        self._tally.anchored(book, work)

    def snapshot(self) -> Snapshot:
        """Return the state at the last committed outer step; immutable."""
        return self._anchored.snapshot

    def complete_snapshot(self) -> Snapshot:
        """Return the newest state that holds the inner optimizer's; `snapshot` if none does."""
        newest, older = self._anchored.snapshot, self._anchored.complete
        return newest if newest.has_inner or older is None else older

    def keep_inner_state(self) -> None:
        """Have snapshots hold the inner optimizer's state too, from the next outer step on.

        For ten minutes from now; may be called from any thread. It costs a copy of one (SGD with
        momentum) or two (Adam) times the parameters in CPU memory per snapshot.
        """
        self._anchored.keep_inner_state()

    def load(self, snapshot: Snapshot) -> None:
        """Become the stage of `snapshot`: anchor, momentum, parameters, inner optimizer.

        The inner optimizer starts afresh if the snapshot has no state of it. An open step is gone.

        Raises:
            CheckpointError: it is of another stage or its digest is wrong. Nothing was changed.
        """
        loadable = self._anchored.read(snapshot)
        self._drop_step()
        self._anchored.load(loadable)
        if loadable.inner_step is not None:
            self._tally.inner_step = loadable.inner_step
        own = loadable.own
        local = own.batches if own is not None else NO_BATCHES
        self._start_over(BatchBook(loadable.batches, local), own.work if own is not None else None)

    def catch_up(self, snapshot: Snapshot) -> Carried:
        """Take over a newer anchor, and keep what we have trained that is not inside it.

        Without local steps, or if they cannot be told from what the anchor holds, this is `load`.

        Raises:
            CheckpointError: it is of another stage or its digest is wrong. Nothing was changed.
        """
        loadable, mine = self._anchored.read(snapshot), self._contributed
        self._drop_step()
        self.take_over()
        carried = self._anchored.catch_up(loadable, self.book, mine)
        if not self._anchored.goes_on(carried):
            self.load(snapshot)
            return carried
        work = self._tally.work
        if carried.is_since_contribution and mine is not None:
            work = work.less(self._anchored.taken_by(mine.outer_step), mine.samples, mine.steps)
        self._start_over(BatchBook(loadable.batches, carried.kept), work)
        return carried

    def _go_back(self) -> None:
        self.load(self.snapshot())
        self._tally.num_divergences += 1

    def _start_over(self, book: BatchBook, work: Work | None = None) -> None:
        self._contributed = None
        self._evaluate.forget()
        self._tally.anchored(book, work)

    def _check_next(self, outer_step: int) -> None:
        if not self._goes_on:
            self._check_closed()
        elif self._contributed is None:
            raise ComputeError(f"{self.uid} has loaded another state since its contribution")
        if outer_step != self.outer_step + 1:
            at = f"{self.uid} is at outer step {self.outer_step}"
            raise ComputeError(f"{at}; it cannot commit {outer_step}")

    def _check_closed(self) -> None:
        if self._passes.is_open:
            raise ComputeError(f"{self.uid} has an open inner step; apply or abort it first")
