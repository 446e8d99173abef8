"""A stage with its anchor: what a round takes from it, gives to it, and leaves for joiners."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from distqatd.base.errors import NonFinite
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES, BatchBook
from distqatd.compute.carrying import Carried, carry
from distqatd.compute.feedback import ErrorFeedback
from distqatd.compute.inner_state import InnerState
from distqatd.compute.results import Contribution, Snapshot
from distqatd.compute.scale import LossScale
from distqatd.compute.snapshots import (
    check_snapshot,
    read_batches,
    read_inner_step,
    read_loss_scale,
)
from distqatd.compute.taking_over import TakingOver
from distqatd.compute.updating import InnerUpdates
from distqatd.compute.work import Own, Standing, Work, read_own
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import InnerOptimConfig, OuterOptimConfig
from distqatd.models.units import Stage
from distqatd.optim.digest import digest
from distqatd.optim.flat import FlatLayout
from distqatd.optim.fragments import Fragments
from distqatd.optim.outer import OuterOptimizer, pseudo_gradient, state_names

KEEP_INNER_S = 600.0
"""How long inner state goes into snapshots after somebody wanted it."""


@dataclass(frozen=True, slots=True)
class Loadable:
    """A snapshot that was found to fit, read; `inner_step` and `own` are None if it has none."""

    snapshot: Snapshot
    batches: IntervalSet
    inner: InnerState
    inner_step: int | None
    rest: Tensor | None = None
    own: Own | None = None
    loss_scale: LossScale | None = None


class AnchoredStage:
    """A stage, its inner and outer optimizer, and its state at the last committed outer step.

    Attributes:
        layout: how the stage lies in a flat vector.
        layout_digest: of the layout.
        fragments: what outer steps take of the parameters, one after the other.
        updates: updates the stage.
        inner: the optimizer that it does that with.
        snapshot: the committed state; immutable, may be read from any thread.
        complete: the one before it, with inner state, until `snapshot` is taken over.
    """

    def __init__(
        self,
        stage: Stage,
        inner: InnerOptimConfig,
        outer: OuterOptimConfig,
        timer: Callable[[], float],
        schedule: RunSchedule,
    ) -> None:
        """Make the state of `stage` the anchor of outer step 0.

        Raises:
            ConfigError: the stage has no trainable parameters, or fewer than fragments.
        """
        self.layout = FlatLayout(stage)
        self.layout_digest = self.layout.digest()
        self.fragments = Fragments(self.layout, schedule.num_fragments)
        self.updates = InnerUpdates(stage, inner, schedule)
        self.inner = self.updates.optimizer
        self._stage = stage
        self._outer = OuterOptimizer(outer, self.layout.num_params)
        self._feedback = ErrorFeedback(self.layout.num_params)
        self._outer_names = state_names(outer)
        self._schedule = schedule
        self._timer = timer
        self._inner_wanted_until = -math.inf
        self._pending: TakingOver | None = None
        self.complete: Snapshot | None = None
        ints = self.layout.gather_ints(stage)
        begin = Standing(BatchBook(), Work(), 0)
        seeded = self._committed(self.layout.gather(stage), 0, ints, begin)
        self.snapshot = self._with_inner(seeded, begin)

    def fragment(self, outer_step: int) -> int | None:
        """Return which fragment the outer step on the anchor of `outer_step` takes; None: all."""
        return self._schedule.fragment(outer_step)

    def taken_by(self, outer_step: int) -> Sequence[int]:
        """Return the numbers of the fragments that the outer step on this anchor takes."""
        return self.fragments.numbers(self.fragment(outer_step))

    def keep_inner_state(self) -> None:
        """Have snapshots hold the inner optimizer's state for KEEP_INNER_S; from any thread."""
        self._inner_wanted_until = self._timer() + KEEP_INNER_S

    def difference(self) -> Tensor:
        """Return anchor - parameters, and the buffers, as `FlatLayout.to_exchange` lays them out.

        What a codec left out of earlier contributions is added; see `compute.feedback`.

        Raises:
            NonFinite: the stage has diverged.
        """
        self.updates.flush()
        anchor, num_params = self.snapshot.tensors["anchor"], self.layout.num_params
        local = self.layout.to_exchange(self.layout.gather(self._stage))
        local[:num_params] = pseudo_gradient(anchor[:num_params], local[:num_params])
        if not self.layout.is_sound(local):
            raise NonFinite("buffers have NaN or infinite values")
        self._feedback.add_to(local[:num_params])
        return local

    def commit(
        self,
        mean: Tensor,
        outer_step: int,
        int_buffers: Mapping[str, int],
        rest: Tensor | None,
        after: Standing,
        ahead_of: Contribution | None = None,
    ) -> None:
        """Apply an outer step to the anchor and make it the stage's state and the snapshot.

        Where it takes a fragment, the parameters of the others stay as they are.

        Args:
            mean: mean of the members' differences, of the fragment that the step takes.
            outer_step: the one this makes.
            int_buffers: maximum over the members.
            rest: what a codec took from our difference.
            after: where this replica stands then.
            ahead_of: our contribution, where steps went on since: the stage stays as it is until
                `take_over`. The snapshot has inner state from then on.

        Raises:
            NonFinite: the mean has NaN or infinite values. Nothing was changed.
            CheckpointError: the mean has another length. Nothing was changed.
        """
        fragment = self.fragment(outer_step - 1)
        whole = self.fragments.put(mean, fragment)
        if not self.layout.is_sound(whole):
            raise NonFinite(f"the average of outer step {outer_step} has NaN or infinite values")
        span = self.fragments.span(fragment)
        anchor = self._stepped(whole, outer_step - 1, span)
        self._feedback.settle(rest, span)
        if ahead_of is not None:
            self._pending = TakingOver(span, int_buffers, ahead_of.int_buffers)
            ints = {**ahead_of.int_buffers, **int_buffers}
            self.complete = self.snapshot if self.snapshot.has_inner else None
            self.snapshot = self._committed(anchor, outer_step, ints, after)
            return
        self._adopt(anchor, span)
        self.layout.scatter_ints(self._stage, int_buffers)
        ints = self.layout.gather_ints(self._stage)
        snapshot = self._committed(anchor, outer_step, ints, after)
        self.snapshot = self._with_inner(snapshot, after)

    @property
    def is_ahead(self) -> bool:
        """Return whether an outer step was committed that the stage has not taken over yet."""
        return self._pending is not None

    def take_over(self, now: Standing) -> None:
        """Mix in the outer step that was committed while steps went on, if one was.

        Args:
            now: where this replica stands.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        anchor = self.snapshot.tensors["anchor"]
        pending.apply(self.layout, self._stage, anchor, self._schedule.mix_alpha)
        self.snapshot, self.complete = self._with_inner(self.snapshot, now), None

    def _stepped(self, mean: Tensor, outer_step: int, span: slice) -> Tensor:
        """Return the anchor after the outer step on that of `outer_step`; the mean has form X."""
        num_params, old = self.layout.num_params, self.snapshot.tensors["anchor"]
        anchor = self.layout.from_exchange(mean)
        rule = self._schedule.outer_rule(outer_step)
        count = self._schedule.outer_count(outer_step)
        part = self._outer.step(old[span], anchor[span], rule, count, span)
        if part.numel() < num_params:
            anchor[:num_params] = old[:num_params]
        anchor[span] = part
        return anchor

    def _adopt(self, anchor: Tensor, span: slice) -> None:
        """Make the anchor's part at `span`, and its buffers, those of the stage."""
        num_params = self.layout.num_params
        local = anchor
        if span != slice(0, num_params):
            local = self.layout.gather(self._stage)
            local[span], local[num_params:] = anchor[span], anchor[num_params:]
        self.layout.scatter(self._stage, local)

    def read(self, snapshot: Snapshot) -> Loadable:
        """Check that a snapshot fits this stage; nothing is changed.

        Raises:
            CheckpointError: it does not, or it is not what its digest says.
        """
        check_snapshot(snapshot, self.layout, self._outer_names)
        batches, inner_step = read_batches(snapshot), read_inner_step(snapshot)
        rest, inner = self._feedback.read(snapshot.tensors), self.inner.read(snapshot)
        own = read_own(snapshot, self.layout.num_elements, len(self.fragments))
        scale = read_loss_scale(snapshot)
        return Loadable(snapshot, batches, inner, inner_step, rest, own, scale)

    def load(self, loadable: Loadable) -> None:
        """Become the stage of a snapshot; without inner state the inner optimizer starts afresh."""
        snapshot = loadable.snapshot
        self.updates.drop()
        self._outer.load_state(snapshot.tensors)
        own = loadable.own
        self.layout.scatter(self._stage, own.local if own else snapshot.tensors["anchor"])
        ints = own.ints if own else snapshot.meta.get("int_buffers", {})
        self.layout.scatter_ints(self._stage, ints)
        self.inner.restart(loadable.inner)
        self.inner.loss_scale = loadable.loss_scale
        self._feedback.load(loadable.rest)
        self._pending = self.complete = None
        self.snapshot = snapshot

    def catch_up(
        self, loadable: Loadable, book: BatchBook, contributed: Contribution | None
    ) -> Carried:
        """Take over a newer anchor and carry our local steps along, as far as it lacks them.

        The inner optimizer goes on; the snapshot's inner state is not used. If nothing can be
        carried along, nothing is done: `load` it.

        Args:
            loadable: the newer state.
            book: of the stage as it is.
            contributed: what it last contributed, if that has not been committed here.
        """
        mine = contributed.batches if contributed is not None else NO_BATCHES
        carried = carry(book, mine, loadable.batches).value
        if not self.goes_on(carried):
            return carried
        try:
            difference = self.difference()
        except NonFinite:
            dropped = book.everything().minus(loadable.batches)
            return Carried(NO_BATCHES, dropped, is_mixed=True)
        if carried.is_since_contribution and contributed is not None:
            fragment = self.fragment(contributed.outer_step)
            difference -= self.fragments.put(contributed.pseudo_gradient, fragment)
        self._move(loadable, difference)
        return carried

    def goes_on(self, carried: Carried) -> bool:
        """Return whether the parameters hold anything that a newer anchor has not taken."""
        return bool(carried.kept) or (self._schedule.is_streaming and not carried.is_mixed)

    def train_on(self, made: Contribution, inside: Contribution) -> None:
        """Put what two contributions to one outer step differ by on top of it."""
        span = self.fragments.span(self.fragment(inside.outer_step))
        num_params = span.stop - span.start
        since = made.pseudo_gradient[:num_params] - inside.pseudo_gradient[:num_params]
        if self._pending is not None:
            self._pending = replace(self._pending, since=since)
            return
        local = self.layout.gather(self._stage)
        local[span] = self.snapshot.tensors["anchor"][span] - since
        self.layout.scatter(self._stage, local)

    def _move(self, loadable: Loadable, difference: Tensor) -> None:
        """Become the stage of a snapshot, less a difference as `difference` returns it."""
        self.snapshot = loadable.snapshot
        self._outer.load_state(self.snapshot.tensors)
        self._feedback.clear()  # it is in the difference
        local, num_params = self.snapshot.tensors["anchor"].clone(), self.layout.num_params
        local[:num_params] -= difference[:num_params]
        self.layout.scatter(self._stage, local)
        self.layout.scatter_ints(self._stage, self.snapshot.meta.get("int_buffers", {}))

    def _committed(
        self,
        anchor: Tensor,
        outer_step: int,
        int_buffers: Mapping[str, int],
        after: Standing,
    ) -> Snapshot:
        """Return what all replicas have in common."""
        tensors = {"anchor": anchor, **self._outer.state_tensors()}
        meta: dict[str, Any] = {
            "int_buffers": dict(int_buffers),
            "batches": after.book.anchor.to_list(),
            "voters": list(after.voters),
        }
        return Snapshot(outer_step, digest(anchor), self.layout_digest, tensors, meta)

    def _with_inner(self, snapshot: Snapshot, now: Standing) -> Snapshot:
        """Return a snapshot with this replica's own state too, if somebody wants it."""
        # What has not trained has inner state too: none.
        if now.inner_step and self._timer() >= self._inner_wanted_until:
            return snapshot
        tensors = {**snapshot.tensors, **self.inner.tensors(), **self._feedback.tensors()}
        meta = {
            **snapshot.meta,
            "inner": self.inner.holders(),
            "inner_step": now.inner_step,
        }
        if self.inner.loss_scale is not None:
            meta["loss_scale"] = self.inner.loss_scale.body()
        if now.inner_step and self._schedule.is_streaming:
            ints = self.layout.gather_ints(self._stage)
            own = Own(self.layout.gather(self._stage), ints, now.work, now.book.local)
            tensors, meta = tensors | own.tensors(), meta | own.meta()
        return replace(snapshot, tensors=tensors, meta=meta)
