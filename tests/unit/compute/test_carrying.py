"""A replica that was left behind takes the newer anchor and keeps what only it has trained."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook
from distqatd.compute.carrying import carry
from distqatd.compute.expert import Expert
from distqatd.config.sections import InnerOptimConfig
from tests.support.experts import make_batch, make_expert

SETS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4).map(
    IntervalSet.from_pairs
)


def ranges(*pairs: tuple[int, int]) -> IntervalSet:
    return IntervalSet.from_pairs(pairs)


def trained(*batches: int) -> Expert:
    expert = make_expert("mlp.full", inner=InnerOptimConfig(type="sgd"))
    train(expert, *batches)
    return expert


def train(expert: Expert, *batches: int) -> None:
    for number in batches:
        inputs, targets = make_batch("mlp", number)
        expert.loss_backward(0, (inputs,), (targets,), 1.0, number)
        expert.apply(len(inputs), number)


def local(expert: Expert) -> torch.Tensor:
    return expert.layout.gather(expert.stage)


def anchor(expert: Expert) -> torch.Tensor:
    return expert.snapshot().tensors["anchor"]


def commit(expert: Expert, mean=None, batches=None) -> None:
    mine = expert.contribution()
    expert.commit_outer(
        mine.pseudo_gradient if mean is None else mean,
        mine.outer_step + 1,
        mine.int_buffers,
        mine.batches if batches is None else batches,
    )


def test_a_replica_that_missed_a_round_keeps_its_difference_to_the_anchor() -> None:
    other, left = trained(0, 1), trained(2, 3)
    commit(other)
    before = anchor(left) - local(left)
    carried = left.catch_up(other.snapshot())
    assert (carried.kept, carried.dropped) == (ranges((2, 4)), ranges())
    torch.testing.assert_close(anchor(left) - local(left), before)
    assert left.anchor_digest == other.anchor_digest
    assert left.book == BatchBook(ranges((0, 2)), ranges((2, 4)))
    given = left.contribution()
    assert (given.samples, given.batches, given.outer_step) == (16, ranges((2, 4)), 1)


def test_what_was_committed_without_our_knowing_does_not_count_twice() -> None:
    other, left = trained(0), trained(1)
    mean = (other.contribution().pseudo_gradient + left.contribution().pseudo_gradient) / 2
    commit(other, mean, ranges((0, 2)))
    train(left, 2)  # the round was given up here: it trains on
    after_contribution = local(left).clone()
    carried = left.catch_up(other.snapshot())
    assert carried.kept == ranges((2, 3))
    assert left.book == BatchBook(ranges((0, 2)), ranges((2, 3)))
    reference = trained(1)
    step = local(reference) - after_contribution  # what batch 2 alone has changed
    torch.testing.assert_close(anchor(left) - local(left), step, atol=1e-6, rtol=1e-4)
    given = left.contribution()
    assert (given.samples, given.steps) == (8, 1)


def test_without_local_steps_the_state_is_simply_loaded() -> None:
    other, left = trained(0), trained()
    commit(other)
    carried = left.catch_up(other.snapshot())
    assert (carried.kept, carried.dropped) == (ranges(), ranges())
    assert left.samples_since_anchor == 0
    torch.testing.assert_close(local(left), anchor(other))


def test_steps_that_cannot_be_told_apart_are_dropped_and_named() -> None:
    other, left = trained(0, 1), trained(1, 2)
    commit(other)
    carried = left.catch_up(other.snapshot())
    assert (carried.kept, carried.dropped) == (ranges(), ranges((2, 3)))
    assert left.book == BatchBook(ranges((0, 2)))
    torch.testing.assert_close(local(left), anchor(other))


def test_steps_that_are_not_finite_are_dropped() -> None:
    other, left = trained(0), trained(1)
    commit(other)
    with torch.no_grad():
        next(left.stage.parameters()).fill_(float("nan"))
    carried = left.catch_up(other.snapshot())
    assert (carried.kept, carried.dropped) == (ranges(), ranges((1, 2)))
    assert bool(torch.isfinite(local(left)).all())


def test_an_open_step_is_dropped() -> None:
    other, left = trained(0), trained(1)
    commit(other)
    inputs, targets = make_batch("mlp", 5)
    left.loss_backward(0, (inputs,), (targets,), 1.0, 5)
    left.catch_up(other.snapshot())
    assert not left.step_is_open
    assert 5 not in left.book


@given(SETS, SETS, SETS)
def test_no_batch_is_kept_that_the_newer_anchor_holds(held, own, inside) -> None:
    book = BatchBook(held, own.minus(held))
    carried = carry(book, IntervalSet(), inside).value
    assert not carried.kept.common(inside)
    assert not carried.kept.common(carried.dropped)
    everything = carried.kept.union(carried.dropped).union(inside)
    assert not book.everything().minus(everything)


@pytest.mark.parametrize(
    ("inside", "kept", "reason"),
    [
        ((0, 5), (5, 9), "none of 4 local batches"),
        ((0, 7), (7, 9), "2 of our batches were committed without us"),
        ((0, 8), (0, 0), "holds 3 of 4 local batches: none is kept"),
    ],
)
def test_the_decision_says_why(inside, kept, reason) -> None:
    book = BatchBook(ranges((0, 5)), ranges((5, 9)))
    decision = carry(book, ranges((5, 7)), ranges(inside))
    assert decision.value.kept == ranges(kept)
    assert reason in decision.reason


def test_what_was_trained_after_a_contribution_goes_on_top_of_the_anchor_that_holds_it() -> None:
    expert = trained(1)
    inside = expert.contribution()
    train(expert, 2)
    made = expert.contribution()
    expert.commit_outer(inside.pseudo_gradient, 1, inside.int_buffers, inside.batches)
    expert.train_on(made, inside)
    assert expert.book == BatchBook(ranges((1, 2)), ranges((2, 3)))
    assert expert.samples_since_anchor == made.samples - inside.samples == 8
    since = made.pseudo_gradient - inside.pseudo_gradient
    torch.testing.assert_close(anchor(expert) - local(expert), since)
