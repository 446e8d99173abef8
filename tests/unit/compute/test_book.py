"""A batch counts once, whoever sends it; what an outer step covers is in every replica's book."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook, bounded
from distqatd.compute.expert import Expert
from distqatd.compute.results import Snapshot
from tests.support.experts import assert_same_state, make_batch, make_expert, state_of

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20)


def ranges(*pairs: tuple[int, int]) -> IntervalSet:
    return IntervalSet.from_pairs(pairs)


def trained(*batches: int) -> Expert:
    expert = make_expert("mlp.full")
    for number in batches:
        train(expert, number)
    return expert


def train(expert: Expert, number: int):
    inputs, targets = make_batch("mlp", number)
    expert.loss_backward(0, (inputs,), (targets,), 1.0, number)
    return expert.apply(len(inputs), number)


def commit(expert: Expert, batches: IntervalSet | None = None) -> None:
    mine = expert.contribution()
    covered = mine.batches if batches is None else batches
    expert.commit_outer(mine.pseudo_gradient, mine.outer_step + 1, mine.int_buffers, covered)


def test_a_batch_that_is_in_the_book_is_not_applied_again() -> None:
    expert = trained(5)
    before = state_of(expert)
    assert train(expert, 5).is_repeat
    assert not expert.step_is_open
    assert_same_state(state_of(expert), before)
    assert (expert.inner_step, expert.samples_since_anchor) == (1, 8)
    assert not train(expert, 6).is_repeat
    assert expert.book.local == ranges((5, 7))


def test_a_repetition_leaves_no_gradient_behind() -> None:
    repeated, plain = trained(5), trained(5)
    train(repeated, 5)
    train(repeated, 6)
    train(plain, 6)
    assert_same_state(state_of(repeated), state_of(plain))


def test_an_outer_step_puts_all_members_batches_into_the_anchors_book() -> None:
    expert = trained(0, 1)
    assert expert.contribution().batches == ranges((0, 2))
    commit(expert, ranges((0, 4)))
    assert expert.book == BatchBook(ranges((0, 4)))
    assert train(expert, 3).is_repeat
    assert expert.snapshot().meta["batches"] == [0, 4]


def test_a_joiner_inherits_the_book_of_the_anchor_and_nothing_else() -> None:
    donor, joiner = trained(0, 1), trained(7)
    commit(donor)
    train(donor, 2)
    joiner.load(donor.snapshot())
    assert joiner.book == BatchBook(ranges((0, 2)))
    assert not train(joiner, 2).is_repeat


def test_a_snapshot_with_a_broken_book_is_refused_and_nothing_changes() -> None:
    expert, donor = trained(0), trained(1)
    commit(donor)
    good = donor.snapshot()
    meta = {**good.meta, "batches": [3, 1]}
    broken = Snapshot(1, good.anchor_digest, good.layout_digest, good.tensors, meta)
    before = state_of(expert)
    with pytest.raises(CheckpointError, match="batches"):
        expert.load(broken)
    assert_same_state(state_of(expert), before)
    assert expert.book == BatchBook(local=ranges((0, 1)))


@pytest.mark.parametrize(
    ("book", "expected"),
    [
        (BatchBook(), 10),
        (BatchBook(ranges((0, 12))), 12),
        (BatchBook(ranges((0, 12)), ranges((12, 14))), 14),
        (BatchBook(ranges((0, 10)), ranges((11, 20))), 10),
        (BatchBook(ranges((0, 30))), 20),
    ],
)
def test_a_lease_goes_on_at_the_first_batch_that_is_missing(book, expected) -> None:
    assert book.next_missing(10, 20) == expected


@given(PAIRS, st.integers(1, 6))
def test_a_bounded_book_forgets_no_batch_and_fills_the_lowest_holes(pairs, max_ranges) -> None:
    batches = IntervalSet.from_pairs(pairs)
    kept = bounded(batches, max_ranges)
    assert len(kept.pairs) <= max_ranges
    assert not batches.minus(kept)
    assert kept.pairs[1:] == batches.pairs[len(batches.pairs) - len(kept.pairs) + 1 :]
